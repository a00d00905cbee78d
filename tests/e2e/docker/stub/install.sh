# Lay out in this image what the real images' commands and health checks call. Each does nothing and succeeds, or is the
# stand-in's own program.
set -eu
stub() {
    mkdir -p "$(dirname "$1")"
    printf '#!/bin/sh\nexec python3 /stub/stub.py "$STUB_ROLE"\n' >"$1"
    chmod 755 "$1"
}
stub /workspace/entrypoint.sh                  # whisperx
stub /runner-scripts/entrypoint.sh             # comfyui
stub /usr/local/bin/npm                        # librechat: npm run backend
stub /usr/local/bin/mongod
stub /usr/local/bin/docker-entrypoint.sh       # anythingllm
stub /usr/local/bin/tini                       # immich's machine learning, meilisearch
stub /usr/local/bin/immich-docker-entrypoint.sh
for name in curl wget mongosh pg_isready immich-healthcheck; do
    printf '#!/bin/sh\nexit 0\n' >"/usr/local/bin/$name"
    chmod 755 "/usr/local/bin/$name"
done
for folder in /opt/modelfetch/lib/python3*/site-packages; do  # python -m immich_ml
    printf 'import runpy\nrunpy.run_path("/stub/stub.py", run_name="__main__")\n' >"$folder/immich_ml.py"
done
mkdir -p /default-comfyui-bundle/ComfyUI
printf '__version__ = "1"\n' >/default-comfyui-bundle/ComfyUI/comfyui_version.py
mkdir -p /app/server && chown 1000:1000 /app/server  # anythingllm's user
printf '#!/bin/sh\necho PONG\n' >/usr/local/bin/redis-cli
printf '#!/bin/sh\nexit 0\n' >/usr/local/bin/docker-healthcheck.sh
chmod 755 /usr/local/bin/redis-cli /usr/local/bin/docker-healthcheck.sh

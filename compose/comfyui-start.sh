#!/bin/bash
# Prepares ComfyUI's folder, then starts ComfyUI as the image (YanWenKun/ComfyUI-Docker) does.
#
# - The image copies its ComfyUI into /root only if there is none, so after an update the old code would keep running.
#   This removes a copy of another version first. The folders that are mounted into it stay.
# - The image sets ComfyUI-Manager to `security_level = weak`, with which everyone who reaches the page can install code.
#   This sets it, and the Manager's network mode, from .env: COMFYUI_MANAGER_SECURITY and COMFYUI_MANAGER_NETWORK.
set -euo pipefail

bundle=${COMFYUI_BUNDLE:-/default-comfyui-bundle/ComfyUI}
home=${COMFYUI_HOME:-/root/ComfyUI}

if [[ -f $home/main.py ]] && ! cmp --silent "$bundle/comfyui_version.py" "$home/comfyui_version.py"; then
    echo "[INFO] ComfyUI in this folder is of another version than the image: replacing it"
    find "$home" -mindepth 1 -maxdepth 1 \
        ! -name models ! -name custom_nodes ! -name input ! -name output ! -name user -exec rm -rf {} +
fi

config=$home/user/__manager/config.ini
mkdir -p "$(dirname "$config")"
[[ -f $config ]] || printf '[default]\nuse_uv = False\n' >"$config"
grep --quiet '^\[default\]' "$config" || printf '[default]\n' >>"$config"
set_manager() {
    sed --in-place "/^$1 *=/d; s/^\[default\].*/&\n$1 = $2/" "$config"
}
set_manager security_level "${COMFYUI_MANAGER_SECURITY:-normal}"
set_manager network_mode "${COMFYUI_MANAGER_NETWORK:-offline}"

exec bash "${COMFYUI_ENTRYPOINT:-/runner-scripts/entrypoint.sh}"

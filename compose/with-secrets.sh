#!/bin/sh
# with-secrets FOLDER NAME=BYTES... COMMAND...: runs COMMAND with secrets in its environment. Each variable that is not set
# gets BYTES random bytes in hex, created at the first start and kept in FOLDER. Only the owner of FOLDER can read them;
# root creates them for that owner, because services that share a secret may run as different users.
set -eu
folder=$1
shift
umask 077
mkdir -p "$folder"
while :; do
    case ${1:-} in
        [A-Z]*=[0-9]*) ;;
        *) break ;;
    esac
    name=${1%%=*}
    bytes=${1#*=}
    shift
    eval "value=\${$name:-}"
    if [ -z "$value" ]; then
        if [ ! -s "$folder/$name" ]; then
            head -c "$bytes" /dev/urandom | od -An -v -tx1 | tr -d ' \n' > "$folder/$name.new"
            [ "$(id -u)" != 0 ] || chown "$(stat -c %u:%g "$folder")" "$folder/$name.new"
            mv "$folder/$name.new" "$folder/$name"
        fi
        value=$(cat "$folder/$name")
    fi
    export "$name=$value"
done
exec "$@"

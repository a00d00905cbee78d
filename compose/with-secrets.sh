#!/bin/sh
# with-secrets FOLDER NAME=BYTES... COMMAND...: gives COMMAND each variable that is not set yet, as BYTES random bytes in
# hex. They are made at the first start and kept in FOLDER, which only their owner can read.
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
            mv "$folder/$name.new" "$folder/$name"
        fi
        value=$(cat "$folder/$name")
    fi
    export "$name=$value"
done
exec "$@"

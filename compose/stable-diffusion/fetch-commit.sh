#!/bin/sh
# fetch-commit URL COMMIT FOLDER: one commit of a repository, without its history.
set -eu
git init --quiet "$3"
git -C "$3" fetch --quiet --depth 1 "$1" "$2"
git -C "$3" checkout --quiet FETCH_HEAD

#!/bin/sh
# torch-packages BUILD [INDEX]: the arguments of `pip install` for PyTorch in the build cuda, cu128 or rocm.
set -eu
case $1 in
    cuda | rocm) echo torch==2.3.1 torchvision==0.18.1 ${2:+--index-url "$2"} ;;
    cu128) echo torch==2.7.1 torchvision==0.22.1 --index-url "${2:-https://download.pytorch.org/whl/cu128}" ;;
    *) echo "TORCH_BUILD=$1: expected cuda, cu128 or rocm" >&2 && exit 1 ;;
esac

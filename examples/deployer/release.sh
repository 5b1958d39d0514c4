#!/bin/sh
# What a build server runs after the image is pushed: release.sh DESCRIPTOR TAG
#
# The exit code says what to do: 0 released; 1 the new version is gone again and the old one serves;
# 4 another release of this app is under way; 5 somebody has to look.
set -u
descriptor=$1
tag=$2
config=${VULCANIZED_CONFIG:-/etc/vulcanized/vulcanized.toml}

vulcanized-deployer validate "$descriptor" --set "TAG=$tag" --config "$config" || exit 2

# A build that is cancelled sends SIGTERM: the release is undone, and this ends with 1.
vulcanized-deployer deploy "$descriptor" --set "TAG=$tag" --wait 60 --config "$config"
code=$?
case $code in
  0) echo "released $tag" ;;
  1) echo "not released; the old version serves" >&2 ;;
  3) echo "a server cannot be reached; 'vulcanized-deployer recover' goes on later" >&2 ;;
  4) echo "another release is under way" >&2 ;;
  5) echo "needs a person: vulcanized-deployer status" >&2 ;;
esac
exit $code

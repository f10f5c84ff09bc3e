#!/bin/sh
# Run a command on a read-only root: container.sh ROOT IMAGE USER FOLDER PREFIX… -- COMMAND…
# ROOT is an empty folder, IMAGE one whose folders come to stand in ROOT's; what is below a PREFIX is seen as it is.
set -eu
root=$1 image=$2 user=${3%:*} folder=$4
shift 4

put() { # FROM TO
    mkdir -p "$root$2"
    mount --rbind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
}

ip link set lo up
mount -t tmpfs tmpfs "$root"
cp -P /bin /lib /lib64 "$root/"
for each in /dev /etc /proc /usr; do put "$each" "$each"; done
while [ "$1" != -- ]; do
    case "$1" in /usr | /usr/*) ;; *) put "$1" "$1" ;; esac
    shift
done
shift
for each in "$image"/*; do put "$each" "/${each##*/}"; done
mkdir -p "$root/run/classifier"
mount -t tmpfs -o noexec,nosuid,nodev,mode=0770 tmpfs "$root/run/classifier"
mount -o remount,bind,ro "$root"
exec unshare --user --map-user="$user" --map-group="$user" --root="$root" --wd="$folder" "$@"

#!/usr/bin/env bash
# What every host of a slice does at every boot (its startup script, run by root): install the revision, mount the
# bucket, train. launch.py puts the values into the metadata of the hosts; variables of the same names come before them.
set -euo pipefail

log=${ALIGNJAX_LOG:-/var/log/alignjax.log}
home=${ALIGNJAX_HOME:-/opt/alignjax}
exec >>"$log" 2>&1
echo "worker: $(date -u +%FT%TZ) on $(hostname)"

value() { # value repository: $ALIGNJAX_REPOSITORY, else the metadata alignjax-repository
    local name
    name="ALIGNJAX_$(tr 'a-z-' 'A-Z_' <<<"$1")"
    if [ -n "${!name+set}" ]; then
        echo "${!name}"
    else
        curl -sSf -H 'Metadata-Flavor: Google' \
            "http://metadata.google.internal/computeMetadata/v1/instance/attributes/alignjax-$1"
    fi
}

repository=$(value repository)
revision=$(value revision)
bucket=$(value bucket)
run_dir=$(value run-dir)
command=$(value command)

# The bucket as a folder. Hosts must see at once what another has written: no cached metadata.
if [ -n "$bucket" ] && ! mountpoint -q /mnt/alignjax; then
    if ! command -v gcsfuse >/dev/null; then
        codename=$(lsb_release -c -s)
        curl -sSf https://packages.cloud.google.com/apt/doc/apt-key.gpg >/usr/share/keyrings/cloud.google.asc
        echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt" \
            "gcsfuse-$codename main" >/etc/apt/sources.list.d/gcsfuse.list
        apt-get update -q
        apt-get install -q -y gcsfuse
    fi
    mkdir -p /mnt/alignjax
    # Checkpoints appear by renaming a folder, which a bucket without a hierarchical namespace refuses unless allowed.
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=100000 "$bucket" /mnt/alignjax
fi

# One environment per revision: a reboot finds it ready. TPU VMs come with an older Python than alignjax asks for.
folder=$home/$revision
if [ ! -e "$folder/ready" ]; then
    rm -rf "$folder"
    git clone -q "$repository" "$folder/source"
    git -C "$folder/source" checkout -q --detach "$revision"
    python3 -m pip install -q uv
    python3 -m uv venv -q --python 3.12 "$folder/environment"
    python3 -m uv pip install -q --python "$folder/environment/bin/python" -e "$folder/source" 'jax[tpu]'
    touch "$folder/ready"
fi

mkdir -p "$run_dir"
cd "$folder/source"
export PATH="$folder/environment/bin:$PATH"
export ALIGNJAX_CACHE=${ALIGNJAX_CACHE:-$home/data}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$home/compiled}
# Not quoted by us: it is a line of words that launch.py has quoted for a shell.
eval "set -- $command"
exec bash tpu/keep_running.sh "$run_dir" "$@"

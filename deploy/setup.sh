#!/usr/bin/env bash
# Make .venv with vmpool in it, and install the system packages it uses. Called by every make target.
#
# Rules: quick and silent when nothing is to do; every download is retried a few times, never for ever; what cannot be
# had is named in one block, and the rest is set up without it. All long output goes to .venv/setup.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv LOG=.venv/setup.log STAMP=.venv/setup.stamp
readonly DRIVER=connection-driver/libvirt_driver_qemu.so
readonly TRIES_MAX=4 APT_S_MAX=1200 PIP_S_MAX=1200
# Python's own path, also from within a virtual environment or behind a shim; none where it is too old.
readonly WHICH_PYTHON='import sys; print(sys._base_executable) if sys.version_info >= (3, 11) else sys.exit(1)'
readonly PYTHONS=(python3 python3.13 python3.12 python3.11 python3.14)

# One line for each thing used from the system: Debian's package, and a command that says whether it is there.
readonly NEEDS=(
    "gcc command -v cc"
    "libc6-dev test -e /usr/include/stdio.h"
    "pkg-config command -v pkg-config"
    "libvirt-dev pkg-config --exists libvirt"
    "libvirt-daemon-system command -v libvirtd"
    "libvirt-daemon-driver-qemu compgen -G '/usr/lib*/libvirt/$DRIVER' || compgen -G '/usr/lib/*/libvirt/$DRIVER'"
    "libvirt-clients command -v virsh"
    "qemu-system-x86 command -v qemu-system-x86_64"
    "qemu-utils command -v qemu-img"
    "iproute2 command -v ip"
    "nftables command -v nft"
    "busybox-static command -v busybox"
    "zstd command -v zstd"
)
# The lab's guest is built from a kernel package that apt must know.
readonly KERNELS=(linux-image-cloud-amd64 linux-image-kvm linux-image-virtual)

main() {
    export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    # One at a time: a second make in the same tree waits here, and then finds everything done.
    exec 9<deploy/setup.sh
    flock 9
    local python missing
    python=$(pick_python)
    missing=$(missing_packages "$python")
    if [[ -f $STAMP && $(head -n 1 "$STAMP") == "$(fingerprint "$python" "$missing")" ]]; then
        say_missing "$missing"
        return
    fi
    begin
    if [[ -n $missing ]] || ! guest_kernel_known; then
        install_packages "$missing"
        python=$(pick_python)
        missing=$(missing_packages "$python")
    fi
    [[ -n $python ]] || no_python
    say_missing "$missing"
    make_venv "$python"
    {
        fingerprint "$python" "$missing"
        echo "extras: $EXTRAS"
        echo "missing: $missing"
    } >"$STAMP"
    say "ready: $("$VENV/bin/python" --version) with [$EXTRAS] in $VENV"
}

say() { printf 'setup: %s\n' "$*"; }

# --- what is there

pick_python() {
    local name
    for name in "${PYTHONS[@]}"; do
        "$name" -c "$WHICH_PYTHON" 2>/dev/null && return
    done
    true
}

missing_packages() {
    local python=$1 name need packages=()
    if [[ -z $python ]]; then
        packages+=(python3 python3-venv python3-dev)
    else
        # The packages of the distribution's default python3 have no number.
        name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        [[ $python -ef /usr/bin/python3 ]] && name=python3
        "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=("$name-venv")
        [[ -e $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] ||
            packages+=("$name-dev")
    fi
    for need in "${NEEDS[@]}"; do
        eval "${need#* }" >/dev/null 2>&1 || packages+=("${need%% *}")
    done
    echo "${packages[*]}"
}

guest_kernel_known() {
    command -v apt-cache >/dev/null || return 0
    [[ -n $(apt-cache show "${KERNELS[@]}" 2>/dev/null) ]]
}

fingerprint() {
    local python=$1 missing=$2
    {
        cat pyproject.toml deploy/setup.sh
        pwd
        echo "$python $("${python:-true}" --version) without: $missing"
    } | sha256sum
}

say_missing() {
    local missing=$1
    [[ -n $missing ]] || return 0
    say "this machine lacks, as Debian calls them: $missing"
    if can_build_libvirt; then
        say "so it may not hold a lab of real libvirt hosts; to have it:"
    else
        say "so libvirt-python cannot be built: hosts are simulated, and tests of libvirt are skipped; to have it:"
    fi
    say "    sudo apt-get install --no-install-recommends $missing"
}

can_build_libvirt() {
    command -v cc >/dev/null && pkg-config --exists libvirt 2>/dev/null
}

no_python() {
    say "Python 3.11 or newer is needed, and found under none of these names: ${PYTHONS[*]}"
    say "Debian 12 and Ubuntu 24.04 have it: apt-get install python3 python3-venv python3-dev"
    say "Ubuntu 22.04 beside its own: apt-get install python3.11 python3.11-venv python3.11-dev"
    exit 1
} >&2

# --- the system's packages

as_root() {
    if [[ $EUID == 0 ]]; then
        "$@" 9<&-
    else
        sudo -n -- "$@" 9<&-
    fi
}

can_be_root() {
    [[ $EUID == 0 ]] || sudo -n true 2>/dev/null
}

install_packages() {
    local missing=$1
    if ! command -v apt-get >/dev/null; then
        say "this machine has no apt-get: nothing is installed on it"
        return
    fi
    if ! can_be_root; then
        say "neither root nor sudo without a password: nothing is installed on this machine"
        return
    fi
    say "apt-get update"
    retry as_root timeout "$APT_S_MAX" apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 update || true
    local wanted
    # shellcheck disable=SC2086 # one word is one package
    wanted=$(known_to_apt $(with_a_python_new_enough "$missing"))
    [[ -n $wanted ]] || return 0
    say "apt-get install $wanted"
    # shellcheck disable=SC2086 # one word is one package
    retry as_root env DEBIAN_FRONTEND=noninteractive timeout "$APT_S_MAX" apt-get -q -y \
        --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install $wanted ||
        say "apt-get failed: see $LOG"
}

# One name that a distribution does not have must not keep it from installing the others.
known_to_apt() {
    local package known=()
    for package in "$@"; do
        [[ -z $(apt-cache show "$package" 2>/dev/null) ]] || known+=("$package")
    done
    echo "${known[*]}"
}

# Where the distribution's python3 is too old but a newer one is packaged beside it, that one is installed.
with_a_python_new_enough() {
    local missing=$1 name version
    if [[ " $missing " == *" python3 "* ]]; then
        version=$(apt-cache policy python3 | sed -n 's/^ *Candidate: \([0-9]*\.[0-9]*\).*/\1/p')
        if ! printf '3.11\n%s\n' "${version:-0}" | sort --version-sort --check=silent; then
            for name in python3.13 python3.12 python3.11; do
                if [[ -n $(apt-cache show "$name-venv" 2>/dev/null) ]]; then
                    missing=${missing/python3 python3-venv python3-dev/$name $name-venv $name-dev}
                    break
                fi
            done
        fi
    fi
    echo "$missing"
}

# --- the virtual environment

begin() {
    # Scripts in a virtual environment name its folder: one that was moved or copied is made anew.
    if [[ -d $VENV ]] && ! { "$VENV/bin/python" -c "$WHICH_PYTHON" && grep -F "$PWD/" "$VENV/bin/pip"; } &>/dev/null; then
        rm -rf "$VENV"
    fi
    mkdir -p "$VENV"
    : >"$LOG"
}

make_venv() {
    local python=$1
    if [[ ! -x $VENV/bin/pip ]]; then
        say "creating $VENV with $python"
        "$python" -m venv "$VENV" >>"$LOG" 2>&1 || failed "$VENV could not be created"
    fi
    say "installing vmpool and its Python packages (long output in $LOG)"
    EXTRAS=nats,dev,libvirt
    if can_build_libvirt; then
        pip_install && return
        say "libvirt-python could not be built (see $LOG): hosts are simulated"
    fi
    EXTRAS=nats,dev
    pip_install || failed "the Python packages could not be installed"
}

pip_install() {
    retry timeout "$PIP_S_MAX" "$VENV/bin/python" -m pip --disable-pip-version-check --no-input \
        install --editable ".[$EXTRAS]"
}

failed() {
    say "$1; the end of $LOG:"
    tail -n 15 "$LOG"
    exit 1
} >&2

# --- tools

retry() {
    local try
    for ((try = 1; try <= TRIES_MAX; try++)); do
        printf '+ %s\n' "$*" >>"$LOG"
        "$@" >>"$LOG" 2>&1 </dev/null && return
        ((try == TRIES_MAX)) || sleep $((try * 3))
    done
    return 1
}

main "$@"

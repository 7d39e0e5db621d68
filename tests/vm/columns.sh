# What both machines have in common: harnesses that run in columns, and how they tell their ends.
export DUET_TEST_REQUIRE=all DUET_BIN_DIR=/usr/bin DUET_TEST_SLOWNESS=8 DUET_TEST_IMAGES=/images

# Everything of containerd's lies on ext4, as on a node: this kernel maps no ids of a tmpfs. The disk is
# memory, so that nothing is gained by a journal. (Without its path it would be the shell's own mke2fs.)
mkdir /disk
insmod /lib/brd.ko rd_nr=1 rd_size=1048576
/bin/mke2fs -q -t ext4 -O ^has_journal /dev/ram0 && mount -t ext4 /dev/ram0 /disk
export TMPDIR=/disk

# Runs tests with a /run/containerd of their own, as tests/private.sh does (mounted with $RUN_OPTIONS, too); not those that a filter with a `-`
# before it names.
column() { # name, harness, environment, filters...
    name=$1 harness=/tests/$2 environment=$3
    shift 3
    mkdir -p /run/containerd
    for filter in "$@"; do
        shift
        case $filter in
            -*) filter=${filter#-}; set -- "$@" --skip "$filter" ;;
            *) set -- "$@" "$filter" ;;
        esac
        # One that fits no test would pass.
        $harness --list "$filter" 2>/dev/null | grep -q ': test$' || { echo "no test of $harness is named $filter"; return 1; }
    done
    # shellcheck disable=SC2016,SC2086 # the inner shell expands it; one word a variable
    unshare --mount sh -c 'mount -t tmpfs -o mode=711$RUN_OPTIONS tmpfs /run/containerd && exec "$@"' sh \
        env $environment $harness --test-threads=1 "$@" > "/run/$name.out" 2> "/run/$name.err"
}

# Says how columns ended: when nobody runs any more who makes the kernel write into these lines.
tell() { # names...
    all=0
    for name in "$@"; do
        sed -n 's/^test \(.*\) \.\.\. ok$/CHECK \1 ok/p' "/run/$name.out"
        if grep -q '^test result: ok' "/run/$name.out"; then
            echo "CHECK all of $name ok"
        else
            all=1
            cat "/run/$name.out" "/run/$name.err"
        fi
    done
    return $all
}

# Runs what was asked for by name instead of what it always does, if anything was: see DUET_TEST_VM.
only_what_was_asked_for() {
    asked=$(sed -n 's/.*duet\.asked=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' ')
    [ -n "$asked" ] || return 1
    names=
    for one in podsandbox shim oracle run pod; do
        filters=
        for filter in $asked; do
            case $filter in
                $one/*) filters="$filters ${filter#*/}" ;;
                */*) ;;
                *) [ $one != podsandbox ] || filters="$filters $filter" ;;
            esac
        done
        [ -n "$filters" ] || continue
        names="$names asked-$one"
        # shellcheck disable=SC2086 # one word a filter
        case $one in
            podsandbox) column asked-$one scenarios '' $filters & ;;
            shim) column asked-$one scenarios "$SHIM" $filters & ;;
            run) column asked-$one run '' $filters & ;;
            oracle) column asked-$one oracle DUET_TEST_CGROUPS=cgroupfs $filters & ;;
            pod) column asked-$one pod $POD $filters & ;;
        esac
    done
    wait
    # shellcheck disable=SC2086
    tell $names && echo 'CHECK asked ok'
    true
}

SHIM='DUET_TEST_SANDBOXER=shim DUET_TEST_CONTAINERD=/sid'
POD=DUET_TEST_BINARIES=/usr/bin

#!/bin/sh
# Makes the images of the examples: the wasm programs that lie here, and Debian's nginx and
# busybox with the libraries they need. No registry and no daemon is involved.
#
#   examples/images.sh DIRECTORY      DIRECTORY gets one .tar for each image
#
# DUET names the command to use; the installed one if it is not set.
set -eu

out=${1:?"usage: $0 DIRECTORY"}
here=$(cd "$(dirname "$0")" && pwd)
duet=${DUET:-duet}
mkdir -p "$out"

passwd=$(mktemp) group=$(mktemp)
trap 'rm -f "$passwd" "$group"' EXIT
printf '%s\n' 'root:x:0:0::/:/bin/sh' 'nobody:x:65534:65534::/:/bin/false' >"$passwd"
printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$group"

# nginx: the program and its libraries; one configuration for each example.
nginx=$(command -v nginx || echo /usr/sbin/nginx)
"$duet" image build --output "$out/nginx.tar" --name localhost/duet-nginx:1 \
    --file "$nginx:/usr/sbin/nginx:755" --with-libraries \
    --file "$here/ambassador/nginx.conf:/etc/nginx/ambassador.conf:644" \
    --file "$here/log-shipper/nginx.conf:/etc/nginx/log-shipper.conf:644" \
    --file "$passwd:/etc/passwd:644" --file "$group:/etc/group:644" \
    --dir /tmp:1777 --dir /var/log/nginx --dir /var/lib/nginx \
    --entrypoint /usr/sbin/nginx

# busybox: one program under all its names. Debian's static one needs no libraries.
busybox=$(command -v busybox || echo /bin/busybox)
set -- --file "$busybox:/bin/busybox:755"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || set -- "$@" --link "/bin/$applet=busybox"
done
"$duet" image build --output "$out/busybox.tar" --name localhost/duet-busybox:1 "$@" \
    --with-libraries \
    --dir /tmp:1777 --env PATH=/bin --entrypoint /bin/sh

# The wasm programs: one file each, and nothing else.
for name in ambassador init-config log-shipper; do
    "$duet" image build --output "$out/$name.tar" --name "localhost/duet-$name:1" \
        --file "$here/$name/$name.wasm:/$name.wasm:755" --entrypoint "/$name.wasm"
done

#!/bin/busybox sh
# PID 1 of the emulated machine. It loads the modules, makes the host's root directory its own (read-only by 9p, with
# an overlay in RAM so that it can be written), runs /share/job in there, and leaves the job's status in
# /share/returncode and in QEMU's exit status.

say() {
	read -r uptime _ </proc/uptime
	echo "init: $uptime s: $*"
}

# The host sees a machine that went off without a result, and shows these words.
give_up() {
	say "cannot $*"
	poweroff -f
}

mount_9p() {
	mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2" || give_up "mount $1"
}

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ifconfig lo 127.0.0.1 up

# The host types on the console to keep the machine awake; nobody is to see that.
stty -F /dev/console -echo
cat /dev/console >/dev/null &

while read -r module; do
	insmod "/modules/$module.ko" || give_up "load $module"
done </modules/order

mount_9p share /share cache=mmap
mount_9p host /host ro,cache=loose

mount -t tmpfs overlay /overlay
mkdir /overlay/upper /overlay/work
mount -t overlay -o lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work root /root || give_up "overlay the root"
mkdir -p /root/share
for directory in proc sys dev share; do
	mount --rbind "/$directory" "/root/$directory"
done
mount -t tmpfs run /root/run
mount -t tmpfs -o mode=1777 tmp /root/tmp

# What the job needs from directories that are now covered.
while read -r path; do
	[ -e "/root$path" ] && continue
	mkdir -p "/root$path"
	mount --bind "/host$path" "/root$path" || give_up "show $path"
done </share/visible

say "the job begins"
: >/share/started
chroot /root /bin/sh /share/job
status=$?
say "the job ended with $status"
echo "$status" >/share/returncode
sync

# isa-debug-exit at port 0xf4 ends QEMU with 2 * status + 1.
printf "\\$(printf %o "$status")" | dd of=/dev/port bs=1 seek=$((0xf4)) conv=notrunc 2>/dev/null
give_up "end QEMU"

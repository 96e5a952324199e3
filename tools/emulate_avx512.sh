#!/usr/bin/env bash
# Runs kernels' parity tests at the level avx512 on a machine without AVX-512: boots a small Linux in the emulator Bochs.
#   tools/emulate_avx512.sh [pytest arguments]      default: every test file that walks the levels, about 90 minutes
# For what is right, not how long it takes: an emulated machine is some thirty times slower. Needs fastdl's native modules
# in the source tree (tools/develop.sh), an environment with pytest and hypothesis, and on Debian
#   apt-get install busybox-static cpio e2fsprogs isolinux kmod syslinux-common xorriso
# and BOCHS=/path/to/bochs, 3.0 or later, configured with --enable-x86-64 --enable-all-optimizations --enable-avx
# --enable-evex --enable-pci --enable-cdrom --with-nogui. NumPy and its BLAS are held to AVX2: they are the reference, and
# the emulator's approximate reciprocals are not what their AVX-512 code counts on. Left out: what sanitize.sh leaves out, and
# tests with many threads, which wait for each other on one emulated CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$PWD
bochs=${BOCHS:-bochs}
share=${BOCHS_SHARE:-/usr/share/bochs} # BIOS-bochs-latest and VGABIOS-lgpl-latest
work=$tree/build/avx512
python=$(command -v python)
base=$(python -c 'import sys; print(sys.base_prefix)')
venv=$(python -c 'import sys; print(sys.prefix)')
mkdir -p "$work"
if [ $# -eq 0 ]; then
  mapfile -t tests < <(grep -l 'backends()' tests/test_*.py)
  set -- "${tests[@]}" -k "avx512 and not guard and not fork and not accuracy and not import_time and not cuda and not many_threads"
fi

# The kernel, and what it needs to read a disk.
cd "$work"
if [ ! -d kernel ]; then
  package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image[^ ]*\)/\1/p' | head -n 1)
  apt-get download "$package"
  dpkg-deb -x "$package"_*.deb kernel
fi
rm -rf initrd iso
mkdir -p initrd/{bin,dev,mnt,modules,proc,sys} iso
cp "$(command -v busybox)" initrd/bin/busybox
order=10
for module in crct10dif_common crct10dif_generic crc64 crc-t10dif crc64-rocksoft crc64_rocksoft_generic scsi_common scsi_mod \
  t10-pi libata ata_piix sd_mod crc32c_generic jbd2 mbcache crc16 ext4; do
  find kernel -name "$module.ko" -exec cp {} "initrd/modules/$order-$module.ko" \;
  order=$((order + 1))
done
cat >initrd/init <<'INIT'
#!/bin/busybox sh
busybox() { /bin/busybox "$@"; }
busybox mount -t proc none /proc
busybox mount -t devtmpfs none /dev
for module in /modules/*; do busybox insmod "$module"; done
until [ -e /dev/sda ]; do busybox sleep 1; done
busybox mount -t ext4 /dev/sda /mnt
for place in tmp dev/shm; do busybox mkdir -p "/mnt/$place"; done
busybox mount -t devtmpfs none /mnt/dev
busybox mkdir -p /mnt/dev/shm
busybox mount -t tmpfs none /mnt/dev/shm
busybox mount -t tmpfs none /mnt/tmp
busybox mount -t proc none /mnt/proc
busybox mount -t sysfs none /mnt/sys
busybox chroot /mnt /bin/bash /run_tests
busybox echo "tests ended: $?"
busybox mount -o remount,ro /mnt
busybox poweroff -f
INIT
chmod +x initrd/init
(cd initrd && find . | cpio -o -H newc --quiet | gzip -1 >../iso/initrd.gz)
cp kernel/boot/vmlinuz-* iso/vmlinuz
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 iso/
cat >iso/isolinux.cfg <<'CONFIG'
DEFAULT linux
LABEL linux
 KERNEL vmlinuz
 APPEND initrd=initrd.gz console=ttyS0 mitigations=off nokaslr nosmp noapic nohpet nopku noxsaves clocksource=tsc tsc=reliable lpj=1000000 random.trust_cpu=on quiet
CONFIG
xorriso -as mkisofs -quiet -o boot.iso -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table iso

# The disk: Python, its environment without what is large and not imported, the sources.
rm -rf root
mkdir -p root/{dev,lib64,proc,sys,tmp,usr/bin,usr/lib} "root$base" "root$venv" "root$tree"
ln -s usr/bin root/bin
ln -s usr/lib root/lib
cp -L /lib64/ld-linux-x86-64.so.2 root/lib64/
cp /bin/bash "$(command -v busybox)" root/usr/bin/
mkdir -p root/usr/lib/x86_64-linux-gnu
cp -a /usr/lib/x86_64-linux-gnu/*.so* root/usr/lib/x86_64-linux-gnu/
tar -C "$base" -cf - --exclude=site-packages --exclude=dist-packages --exclude='python3*/test' bin lib | tar -C "root$base" -xf -
tar -C "$venv" -cf - --exclude=torch --exclude=cmake --exclude=nvidia --exclude=mypy bin lib pyvenv.cfg | tar -C "root$venv" -xf -
tar -C "$tree" -cf - --exclude=./build --exclude=./.git --exclude=__pycache__ . | tar -C "root$tree" -xf -
{
  echo "export PATH=$(dirname "$python"):/usr/bin HOME=/tmp PYTHONPATH=$tree/python PYTHONDONTWRITEBYTECODE=1 FASTDL_NUM_THREADS=2"
  echo 'export FASTDL_TESTS_WITHOUT_TORCH=1 OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"'
  echo "cd $tree"
  printf 'exec python -m pytest -q -p no:cacheprovider --color=no --tb=short'
  printf ' %q' "$@"
  echo ' 2>&1'
} >root/run_tests
rm -f disk.img
mke2fs -q -t ext4 -O ^has_journal,^metadata_csum,^64bit -d root disk.img 4G
cylinders=$(($(stat -c %s disk.img) / 516096 + 1))
truncate -s $((cylinders * 516096)) disk.img
rm -rf root

cat >bochsrc <<CONFIG
config_interface: textconfig
display_library: nogui
cpu: model=corei7_skylake_x, count=1, ips=50000000, ignore_bad_msrs=1
memory: guest=2048, host=2048
romimage: file=$share/BIOS-bochs-latest
vgaromimage: file=$share/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=$work/disk.img, mode=flat, cylinders=$cylinders, heads=16, spt=63
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
clock: sync=none, time0=local
log: $work/bochs.log
panic: action=report
error: action=ignore
info: action=ignore
debug: action=ignore
CONFIG
rm -f disk.img.lock serial.txt
touch serial.txt
tail -n +1 -F serial.txt --pid=$$ 2>/dev/null &
"$bochs" -q -f bochsrc </dev/null >bochs.out 2>&1 || true # it ends so when the machine switches itself off
sleep 1
grep -q "tests ended: 0" serial.txt

#!/bin/sh
# What a tier's code is made of: tier_instructions.sh OBJDUMP TIER OBJECT... Its own widest vectors and products, and
# none of a higher tier, which a processor of this one would not know.
objdump=$1 tier=$2
shift 2
case $tier in
  portable) has='%xmm' not='%[yz]mm' ;;
  avx2) has='vfmadd[0-9]*ps .*%ymm' not='%zmm' ;;
  avx512) has='vfmadd[0-9]*ps .*%zmm' not='vdpbf16ps' ;;
  avx512_bf16) has='vdpbf16ps .*%zmm' not='' ;;
  *) echo "unknown tier $tier" >&2; exit 2 ;;
esac
code=$(mktemp)
trap 'rm -f "$code"' EXIT
status=0
for part in attention_forward attention_backward attention_decode product; do
  object=$(printf '%s\n' "$@" | grep "/$part\.tier\.") || { echo "no object of $part" >&2; exit 1; }
  "$objdump" -d --no-show-raw-insn "$object" >"$code" || exit 1
  own=$(grep -c "$has" "$code")
  higher=0
  [ -z "$not" ] || higher=$(grep -c "$not" "$code")
  echo "$tier $part: $own of '$has', $higher of '$not'"
  [ "$own" -gt 0 ] && [ "$higher" -eq 0 ] || status=1
done
exit $status

#!/usr/bin/env bash
# all.sh OUT [NAME...]: runs the steps of reports/measured/gpu-counted.md (or those named) one after the other; OUT/NAME.txt holds the
# command and what it printed. A step takes one to five minutes on a CPU core. Run it from the project's root.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
mkdir -p "$out"
wanted=" $* "
failed=0
go() { # NAME STEP ARGS...
  local name=$1
  shift
  [ "$wanted" = "  " ] || [[ "$wanted" == *" $name "* ]] || return 0
  echo "\$ tests/pretend_gpu/run.sh $*" >"$out/$name.txt"
  if timeout 1800 "$here/run.sh" "$@" >>"$out/$name.txt" 2>&1; then echo "$name"; else echo "$name: FAILED" && failed=1; fi
}
go stage2 stage2.py
go stage2-eager stage2.py --compile off
go stage2-online stage2.py --online
go stage2-captured stage2.py --capture --warm 5
go stage1 stage1.py --gan
go stage1-fp32 stage1.py --gan --precision fp32
go stage1-paper stage1.py --gan --precision fp32 --batch 512
go decoder decoder.py
go sampling sampling.py
go ranks ranks.py
go rank-alone stage2.py --batch 32
go said said.py
go checkpoint checkpoint.py
go smoke smoke.py
exit $failed

# The parts of the long run, and the paths that each of them tests. For .ci/long and .ci/run, which source it.
# shellcheck shell=bash

# NAME|MINUTES|PURPOSE, in the order of `.ci/long all`. Minutes: on two cores of 2.5 GHz, a build of some five included.
parts=(
  "kills|15|the daemon and its store process are killed 1,000 times under load: no stored message is lost"
  "power|45|the power of a virtual machine is cut 100 times: no stored message is lost"
  "faults|45|300 disk calls of each kind fail, and 1,000 stores are damaged: the daemon goes on and recovers"
  "chaos|15|180 random rounds of load, limits, hand-overs, kills and full disks: no position is reused"
  "cuts|12|clients are disconnected 10,000 times at random: nothing is lost or doubled unnoticed"
  "soak|30|thousands of connections, attacks, the Stop button five times over, 100 restarts under load on each systemd"
  "model|50|random histories against a reference model for half an hour, and 10,000 of each other kind"
  "fuzz|55|each fuzz target for nine minutes, with new choices"
  "arm|50|the tests for 32-bit Arm, emulated"
  "arm64|50|the tests for 64-bit Arm, emulated"
  "static|40|static files for all targets, built twice: the bytes are the same"
  "sizes|35|the table of sizes for x86-64, and its limits"
  "sizes-arm|35|the table of sizes for Arm"
  "bench|20|memory, wake-ups, fan-out, and the costs of kept messages with their limits"
)

# PATTERN|PARTS: which parts test a path. A star stands for any text, slashes included; all lines that match count.
tested_by=(
  "src/protocol/*|fuzz cuts"
  "src/hub/*|model chaos cuts fuzz"
  "src/hub/log/*|kills"
  "src/hub/operation/*|soak"
  "src/edge/auth/*|fuzz soak"
  "src/edge/driver/*|chaos cuts soak"
  "src/edge/handover/*|chaos soak"
  "src/edge/http/*|fuzz soak"
  "src/edge/net/*|fuzz cuts soak bench"
  "src/edge/store/*|kills power faults chaos bench"
  "src/edge/systemd/*|soak"
  "src/edge/clock.rs|model chaos"
  "src/daemon/*|kills chaos soak"
  "src/client/*|soak"
  "src/config/*|fuzz"
  "src/bin/wshubctl/*|soak"
  "Cargo.*|fuzz static sizes sizes-arm arm arm64"
  "packaging/build.rs|static sizes sizes-arm"
  "packaging/cross.sh|static sizes-arm arm arm64"
  "packaging/deb*|soak"
  "packaging/sizes|sizes sizes-arm"
  "packaging/static|static sizes-arm arm arm64"
  "packaging/wshubd.toml|fuzz"
  "systemd/*|soak"
  "tests/scenario/*|model"
  "tests/fuzz/*|fuzz"
  "tests/arm/*|arm arm64"
  "tests/bench/*|bench"
  "tests/systemd/*|soak"
  "tests/real/random_kills.py|kills"
  "tests/real/power_cuts.py|power"
  "tests/real/virtual_machine.py|power"
  "tests/real/write_cache_disk.py|power"
  "tests/real/disk_faults.py|faults"
  "tests/real/failing_calls.*|faults"
  "tests/real/kept_messages.py|kills power faults chaos"
  "tests/real/chaos*.py|chaos"
  "tests/real/fault_injection.py|chaos"
  "tests/real/load_generators.py|chaos"
  "tests/real/received_positions.py|chaos"
  "tests/real/subscriber_pool.py|chaos"
  "tests/real/random_disconnects.py|cuts"
  "tests/real/reconnecting_readers.py|cuts"
  "tests/real/attacks.py|soak"
  "tests/real/many_connections.py|soak"
  "tests/real/stop_button.py|soak"
  "tests/real/daemon.py|kills faults chaos cuts soak bench"
  "tests/real/ws_client.py|kills faults chaos cuts soak bench"
)

# The paths that differ from where this branch left origin's main, else from the last commit but one; also those that are not
# committed yet.
changed_paths() {
  local base
  base=$(git merge-base HEAD origin/main 2>/dev/null) || base=""
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then base=HEAD~1; fi
  git diff --name-only "$base" 2>/dev/null || true
  git ls-files --others --exclude-standard
}

# One line for each part that tests a changed path, with the first such path; nothing where there is none.
parts_touched() {
  local paths part name minutes purpose line path
  mapfile -t paths < <(changed_paths)
  for part in "${parts[@]}"; do
    IFS='|' read -r name minutes purpose <<<"$part"
    for line in "${tested_by[@]}"; do
      [[ " ${line#*|} " == *" $name "* ]] || continue
      for path in ${paths[@]+"${paths[@]}"}; do
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $path == ${line%%|*} ]] || continue
        printf '  .ci/long %-10s %3d min  %s (%s)\n' "$name" "$minutes" "$purpose" "$path"
        continue 3
      done
    done
  done
}

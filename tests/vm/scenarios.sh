# Runs inside systemd's machine. One line `CHECK name ok` for each scenario that held.
export DUET_TEST_REQUIRE=all DUET_BIN_DIR=/usr/bin DUET_TEST_CGROUPS=systemd
# The firmware leaves the cursor behind its own words.
echo
/tests/scenarios --test-threads=1 systemd:: apparmor:: > /run/out 2> /run/err
echo "the scenarios ended with $?"
sed -n 's/^test \(.*\) \.\.\. ok$/CHECK \1 ok/p' /run/out
grep -q '^test result: ok' /run/out && echo 'CHECK all ok' || cat /run/out /run/err

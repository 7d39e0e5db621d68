/* wasi:clocks: what time it is, and waiting for it. */
#include "judge.h"

#define now wasi_clocks_monotonic_clock_now
#define MS (1000 * 1000ULL)

bool exports_wasi_cli_run_run(void)
{
    wasi_clocks_wall_clock_datetime_t time;
    uint64_t before = now(), resolution = wasi_clocks_monotonic_clock_resolution();
    wasi_io_poll_own_pollable_t far;

    CHECK(resolution > 0 && resolution < 1000 * MS);
    wait_for(wasi_clocks_monotonic_clock_subscribe_duration(20 * MS));
    CHECK(now() >= before + 20 * MS);
    before = now();
    wait_for(wasi_clocks_monotonic_clock_subscribe_instant(before + 20 * MS));
    CHECK(now() >= before + 20 * MS);
    /* What was is over, and what is centuries away is not. */
    wait_for(wasi_clocks_monotonic_clock_subscribe_instant(0));
    wait_for(wasi_clocks_monotonic_clock_subscribe_duration(0));
    far = wasi_clocks_monotonic_clock_subscribe_instant(UINT64_MAX);
    CHECK(!wasi_io_poll_method_pollable_ready(wasi_io_poll_borrow_pollable(far)));
    far = wasi_clocks_monotonic_clock_subscribe_duration(UINT64_MAX);
    CHECK(!wasi_io_poll_method_pollable_ready(wasi_io_poll_borrow_pollable(far)));

    /* 2020; it may be set back meanwhile. */
    wasi_clocks_wall_clock_now(&time);
    CHECK(time.seconds > 1577836800 && time.nanoseconds < 1000 * MS);
    wasi_clocks_wall_clock_resolution(&time);
    CHECK(time.seconds == 0 && time.nanoseconds > 0);
    say("well\n");
    return true;
}

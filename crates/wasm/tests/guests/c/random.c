/* wasi:random: bytes that nobody foresees, and others. */
#include "judge.h"

typedef void get(uint64_t length, guest_list_u8_t *bytes);
typedef uint64_t number(void);

static void seed(uint64_t length, guest_list_u8_t *bytes)
{
    guest_tuple2_u64_u64_t *both = malloc(sizeof *both);

    IS(length, sizeof *both);
    wasi_random_insecure_seed_insecure_seed(both);
    bytes->ptr = (uint8_t *)both;
    bytes->len = sizeof *both;
}

static bool are_zero(guest_list_u8_t bytes)
{
    for (size_t i = 0; i < bytes.len; i++)
        if (bytes.ptr[i])
            return false;
    return true;
}

bool exports_wasi_cli_run_run(void)
{
    static const uint64_t lengths[] = {0, 1, 7, 16, 4096, 1 << 20};
    get *const gets[] = {wasi_random_random_get_random_bytes, wasi_random_insecure_get_insecure_random_bytes};
    number *const numbers[] = {wasi_random_random_get_random_u64, wasi_random_insecure_get_insecure_random_u64};
    guest_list_u8_t one, two;

    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++) {
            gets[i](lengths[j], &one);
            IS(one.len, lengths[j]);
            if (one.len < 16)
                continue;
            gets[i](lengths[j], &two);
            CHECK(!are_zero(one) && memcmp(one.ptr, two.ptr, one.len));
            /* To its end. */
            one.ptr += one.len - 16;
            one.len = 16;
            CHECK(!are_zero(one));
        }
        CHECK(numbers[i]() != numbers[i]());
    }
    seed(16, &one);
    CHECK(!are_zero(one));
    say("well\n");
    return true;
}

/* wasi:config: with `colour` and `empty` set, and `shape` not. */
#include "judge.h"

bool exports_wasi_cli_run_run(void)
{
    static const struct {
        const char *key, *value;
    } table[] = {{"colour", "blue"}, {"empty", ""}, {"shape", NULL}, {"", NULL}};
    guest_list_tuple2_string_string_t all;
    wasi_config_store_error_t error;
    size_t found = 0;

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        guest_option_string_t given;

        CHECK(wasi_config_store_get(as(table[i].key), &given, &error));
        CHECK(given.is_some == !!table[i].value);
        if (given.is_some)
            SAYS(given.val, table[i].value);
    }
    CHECK(wasi_config_store_get_all(&all, &error));
    for (size_t i = 0; i < all.len; i++)
        for (size_t j = 0; j < 2; j++)
            if (all.ptr[i].f0.len == strlen(table[j].key) &&
                !memcmp(all.ptr[i].f0.ptr, table[j].key, all.ptr[i].f0.len)) {
                SAYS(all.ptr[i].f1, table[j].value);
                found++;
            }
    IS(found, 2);
    say("well\n");
    return true;
}

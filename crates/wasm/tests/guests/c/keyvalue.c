/* wasi:keyvalue: one store of values, alone and several at a time. */
#include "judge.h"

#define IN(name) wasi_keyvalue_store_method_bucket_##name

static wasi_keyvalue_store_borrow_bucket_t bucket;
static wasi_keyvalue_store_error_t failed;

/* A call works. */
#define DONE(call)                                                           \
    do {                                                                     \
        if (!(call))                                                         \
            fail(HERE #call);                                                \
    } while (0)

static void value_is(const char *key, const char *value)
{
    guest_option_list_u8_t given;
    bool there;

    DONE(IN(get)(bucket, as(key), &given, &failed));
    DONE(IN(exists)(bucket, as(key), &there, &failed));
    CHECK(given.is_some == !!value && there == !!value);
    if (value)
        SAYS(given.val, value);
}

static void alone(void)
{
    wasi_keyvalue_store_own_bucket_t opened;
    wasi_keyvalue_store_key_response_t keys;

    DONE(wasi_keyvalue_store_open(as(""), &opened, &failed));
    bucket = wasi_keyvalue_store_borrow_bucket(opened);
    CHECK(!wasi_keyvalue_store_open(as("other"), &opened, &failed));
    IS(failed.tag, WASI_KEYVALUE_STORE_ERROR_NO_SUCH_STORE);

    value_is("a", NULL);
    DONE(IN(set)(bucket, as("a"), bytes("one"), &failed));
    DONE(IN(set)(bucket, as("a"), bytes("two"), &failed));
    value_is("a", "two");
    DONE(IN(set)(bucket, as("b"), bytes(""), &failed));
    value_is("b", "");
    DONE(IN(list_keys)(bucket, NULL, &keys, &failed));
    IS(keys.keys.len, 2);
    SAYS(keys.keys.ptr[0], "a");
    SAYS(keys.keys.ptr[1], "b");
    CHECK(!keys.cursor.is_some);
    DONE(IN(delete)(bucket, as("a"), &failed));
    DONE(IN(delete)(bucket, as("nothing"), &failed));
    value_is("a", NULL);
}

static void counting(void)
{
    uint64_t number;

    DONE(wasi_keyvalue_atomics_increment(bucket, as("n"), 2, &number, &failed));
    IS(number, 2);
    DONE(wasi_keyvalue_atomics_increment(bucket, as("n"), 40, &number, &failed));
    IS(number, 42);
    value_is("n", "42");
    CHECK(!wasi_keyvalue_atomics_increment(bucket, as("n"), UINT64_MAX, &number, &failed));
    IS(failed.tag, WASI_KEYVALUE_STORE_ERROR_OTHER);
    CHECK(!wasi_keyvalue_atomics_increment(bucket, as("b"), 1, &number, &failed));
    IS(failed.tag, WASI_KEYVALUE_STORE_ERROR_OTHER);
}

static void together(void)
{
    guest_tuple2_string_list_u8_t pairs[] = {{*as("x"), *bytes("1")}, {*as("z"), *bytes("3")}};
    guest_list_tuple2_string_list_u8_t two = {pairs, 2};
    guest_string_t names[] = {*as("x"), *as("y"), *as("z")};
    guest_list_string_t three = {names, 3};
    guest_list_option_tuple2_string_list_u8_t given;

    DONE(wasi_keyvalue_batch_set_many(bucket, &two, &failed));
    DONE(wasi_keyvalue_batch_get_many(bucket, &three, &given, &failed));
    IS(given.len, 3);
    CHECK(given.ptr[0].is_some && !given.ptr[1].is_some && given.ptr[2].is_some);
    SAYS(given.ptr[2].val.f0, "z");
    SAYS(given.ptr[2].val.f1, "3");
    DONE(wasi_keyvalue_batch_delete_many(bucket, &three, &failed));
    value_is("x", NULL);
    value_is("z", NULL);
}

bool exports_wasi_cli_run_run(void)
{
    alone();
    counting();
    together();
    say("well\n");
    return true;
}

/* wasi:filesystem: files and folders by descriptors.
 *
 *   c-filesystem.wasm DIRECTORY     which is empty
 */
#include "judge.h"

#define AT(name) wasi_filesystem_types_method_descriptor_##name
#define BORROW wasi_filesystem_types_borrow_descriptor
#define NEXT wasi_filesystem_types_method_directory_entry_stream_read_directory_entry
#define FLAG(name) WASI_FILESYSTEM_TYPES_DESCRIPTOR_FLAGS_##name
#define OPEN(name) WASI_FILESYSTEM_TYPES_OPEN_FLAGS_##name
#define CODE(name) WASI_FILESYSTEM_TYPES_ERROR_CODE_##name
#define KIND(name) WASI_FILESYSTEM_TYPES_DESCRIPTOR_TYPE_##name
#define FOLLOW WASI_FILESYSTEM_TYPES_PATH_FLAGS_SYMLINK_FOLLOW
#define COUNT(table) (sizeof(table) / sizeof *(table))

typedef wasi_filesystem_types_borrow_descriptor_t descriptor;
typedef wasi_filesystem_types_descriptor_stat_t stat;

static wasi_filesystem_types_error_code_t error;
static descriptor root, here;

static descriptor open_in(descriptor folder, const char *path, int how, int flags)
{
    wasi_filesystem_types_own_descriptor_t opened;

    WORKS(AT(open_at)(folder, 0, as(path), how, flags, &opened, &error));
    return BORROW(opened);
}

static descriptor make(const char *path, const char *content)
{
    descriptor made = open_in(here, path, OPEN(CREATE) | OPEN(EXCLUSIVE), FLAG(READ) | FLAG(WRITE));
    uint64_t written;

    WORKS(AT(write)(made, bytes(content), 0, &written, &error));
    IS(written, strlen(content));
    return made;
}

static void file_is(descriptor file, const char *text)
{
    guest_tuple2_list_u8_bool_t read;

    WORKS(AT(read)(file, 4096, 0, &read, &error));
    SAYS(read.f0, text);
}

static void folders(void)
{
    wasi_filesystem_preopens_list_tuple2_own_descriptor_string_t all;

    wasi_filesystem_preopens_get_directories(&all);
    IS(all.len, 1);
    SAYS(all.ptr[0].f1, "/");
    root = BORROW(all.ptr[0].f0);
    here = open_in(root, argument(1) + 1, OPEN(DIRECTORY), FLAG(READ) | FLAG(MUTATE_DIRECTORY));
}

static void files(void)
{
    descriptor file = make("file", "0123456789");
    wasi_filesystem_types_descriptor_flags_t flags;
    wasi_filesystem_types_descriptor_type_t type;
    wasi_filesystem_types_own_output_stream_t out;
    wasi_filesystem_types_own_input_stream_t in;
    guest_tuple2_list_u8_bool_t read;
    uint64_t written;
    stat is_now;

    WORKS(AT(get_flags)(file, &flags, &error));
    IS(flags, FLAG(READ) | FLAG(WRITE));
    WORKS(AT(get_type)(file, &type, &error));
    IS(type, KIND(REGULAR_FILE));
    WORKS(AT(read)(file, 4, 6, &read, &error));
    SAYS(read.f0, "6789");
    WORKS(AT(read)(file, 4, 10, &read, &error));
    CHECK(read.f0.len == 0 && read.f1);
    WORKS(AT(write)(file, bytes("xy"), 2, &written, &error));
    IS(written, 2);
    WORKS(AT(set_size)(file, 6, &error));
    WORKS(AT(sync_data)(file, &error));
    WORKS(AT(sync)(file, &error));
    file_is(file, "01xy45");
    for (int advice = 0; advice <= WASI_FILESYSTEM_TYPES_ADVICE_NO_REUSE; advice++)
        WORKS(AT(advise)(file, 0, 6, advice, &error));

    WORKS(AT(append_via_stream)(file, &out, &error));
    write_to(out, "end");
    WORKS(AT(write_via_stream)(file, 4, &out, &error));
    write_to(out, "ab");
    WORKS(AT(read_via_stream)(file, 1, &in, &error));
    CHECK(!strcmp(rest_of(in), "1xyabend"));

    WORKS(AT(stat)(file, &is_now, &error));
    IS(is_now.type, KIND(REGULAR_FILE));
    IS(is_now.size, 9);
    IS(is_now.link_count, 1);
    CHECK(is_now.data_access_timestamp.is_some && is_now.status_change_timestamp.is_some);
    /* A descriptor outlives its name. */
    WORKS(AT(unlink_file_at)(here, as("file"), &error));
    WORKS(AT(stat)(file, &is_now, &error));
    IS(is_now.link_count, 0);
    file_is(file, "01xyabend");
}

static void times(void)
{
    wasi_filesystem_types_new_timestamp_t then = {
        .tag = WASI_FILESYSTEM_TYPES_NEW_TIMESTAMP_TIMESTAMP,
        .val.timestamp = {.seconds = 1000000000, .nanoseconds = 5},
    };
    wasi_filesystem_types_new_timestamp_t now = {.tag = WASI_FILESYSTEM_TYPES_NEW_TIMESTAMP_NOW};
    wasi_filesystem_types_new_timestamp_t same = {.tag = WASI_FILESYSTEM_TYPES_NEW_TIMESTAMP_NO_CHANGE};
    descriptor file = make("timed", "");
    stat is_now;

    WORKS(AT(set_times)(file, &then, &then, &error));
    WORKS(AT(set_times_at)(here, FOLLOW, as("timed"), &same, &now, &error));
    WORKS(AT(stat_at)(here, FOLLOW, as("timed"), &is_now, &error));
    IS(is_now.data_access_timestamp.val.seconds, 1000000000);
    IS(is_now.data_access_timestamp.val.nanoseconds, 5);
    CHECK(is_now.data_modification_timestamp.val.seconds > 1577836800);
    WORKS(AT(unlink_file_at)(here, as("timed"), &error));
}

static void paths(void)
{
    wasi_filesystem_types_metadata_hash_value_t one, two;
    descriptor file = make("one", "text"), again;
    guest_string_t target;
    stat is_now;

    WORKS(AT(create_directory_at)(here, as("folder"), &error));
    WORKS(AT(rename_at)(here, as("one"), here, as("folder/moved"), &error));
    WORKS(AT(link_at)(here, 0, as("folder/moved"), here, as("linked"), &error));
    WORKS(AT(symlink_at)(here, as("folder/moved"), as("link"), &error));
    WORKS(AT(readlink_at)(here, as("link"), &target, &error));
    SAYS(target, "folder/moved");

    again = open_in(here, "linked", 0, FLAG(READ));
    file_is(again, "text");
    CHECK(AT(is_same_object)(file, again));
    CHECK(!AT(is_same_object)(file, here));
    WORKS(AT(metadata_hash)(file, &one, &error));
    WORKS(AT(metadata_hash_at)(here, FOLLOW, as("link"), &two, &error));
    CHECK(one.lower == two.lower && one.upper == two.upper);
    WORKS(AT(metadata_hash_at)(here, 0, as("link"), &two, &error));
    CHECK(one.lower != two.lower || one.upper != two.upper);
    WORKS(AT(stat_at)(here, 0, as("link"), &is_now, &error));
    IS(is_now.type, KIND(SYMBOLIC_LINK));
    WORKS(AT(stat_at)(here, FOLLOW, as("link"), &is_now, &error));
    IS(is_now.type, KIND(REGULAR_FILE));
    IS(is_now.link_count, 2);
}

static void cannot_write(wasi_filesystem_types_own_output_stream_t out)
{
    wasi_io_streams_stream_error_t ended;

    CHECK(!wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(out),
                                                                         bytes("x"), &ended));
    IS(ended.tag, WASI_IO_STREAMS_STREAM_ERROR_LAST_OPERATION_FAILED);
    CHECK(wasi_filesystem_types_filesystem_error_code(wasi_io_error_borrow_error(ended.val.last_operation_failed),
                                                      &error));
    IS(error, CODE(BAD_DESCRIPTOR));
}

/* What is there now: folder/moved, linked, and link to the first. */
static void refusals(void)
{
    static const struct {
        const char *path;
        int follow, how, flags, code;
    } opens[] = {
        {"nothing", 0, 0, FLAG(READ), CODE(NO_ENTRY)},
        {"linked", 0, OPEN(CREATE) | OPEN(EXCLUSIVE), FLAG(WRITE), CODE(EXIST)},
        {"linked", 0, OPEN(DIRECTORY), FLAG(READ), CODE(NOT_DIRECTORY)},
        {"linked/below", 0, 0, FLAG(READ), CODE(NOT_DIRECTORY)},
        {"link", 0, 0, FLAG(READ), CODE(LOOP)},
        {"folder", 0, 0, FLAG(READ) | FLAG(WRITE), CODE(IS_DIRECTORY)},
        {"../outside", 0, 0, FLAG(READ), CODE(NOT_PERMITTED)},
        {"folder/../../outside", FOLLOW, 0, FLAG(READ), CODE(NOT_PERMITTED)},
        {"/etc/passwd", 0, 0, FLAG(READ), CODE(NOT_PERMITTED)},
    };
    wasi_filesystem_types_own_descriptor_t opened;
    wasi_filesystem_types_own_output_stream_t out;
    descriptor readable = open_in(here, "linked", 0, FLAG(READ));
    guest_string_t target;
    uint64_t written;

    for (size_t i = 0; i < COUNT(opens); i++) {
        if (AT(open_at)(here, opens[i].follow, as(opens[i].path), opens[i].how, opens[i].flags, &opened, &error))
            fail(opens[i].path);
        is(error, opens[i].code, opens[i].path, "what its row says");
    }
    REFUSED(AT(create_directory_at)(here, as("folder"), &error), CODE(EXIST));
    REFUSED(AT(remove_directory_at)(here, as("folder"), &error), CODE(NOT_EMPTY));
    REFUSED(AT(remove_directory_at)(here, as("linked"), &error), CODE(NOT_DIRECTORY));
    REFUSED(AT(unlink_file_at)(here, as("folder"), &error), CODE(IS_DIRECTORY));
    REFUSED(AT(unlink_file_at)(here, as("nothing"), &error), CODE(NO_ENTRY));
    REFUSED(AT(rename_at)(here, as("nothing"), here, as("some"), &error), CODE(NO_ENTRY));
    REFUSED(AT(readlink_at)(here, as("linked"), &target, &error), CODE(INVALID));
    REFUSED(AT(symlink_at)(here, as("/etc/passwd"), as("absolute"), &error), CODE(NOT_PERMITTED));
    REFUSED(AT(write)(readable, bytes("x"), 0, &written, &error), CODE(BAD_DESCRIPTOR));
    /* A stream says so when it is written to. */
    WORKS(AT(write_via_stream)(readable, 0, &out, &error));
    cannot_write(out);
    WORKS(AT(append_via_stream)(readable, &out, &error));
    cannot_write(out);
    REFUSED(AT(set_size)(here, 0, &error), CODE(BAD_DESCRIPTOR));
}

static void listing(void)
{
    static const struct {
        const char *name;
        int type;
    } expected[] = {
        {"folder", KIND(DIRECTORY)}, {"linked", KIND(REGULAR_FILE)}, {"link", KIND(SYMBOLIC_LINK)},
    };
    wasi_filesystem_types_own_directory_entry_stream_t own;
    wasi_filesystem_types_option_directory_entry_t entry;
    size_t all = 0, known = 0;

    WORKS(AT(read_directory)(here, &own, &error));
    for (;;) {
        WORKS(NEXT(wasi_filesystem_types_borrow_directory_entry_stream(own), &entry, &error));
        if (!entry.is_some)
            break;
        all++;
        for (size_t i = 0; i < COUNT(expected); i++)
            if (entry.val.name.len == strlen(expected[i].name) &&
                !memcmp(entry.val.name.ptr, expected[i].name, entry.val.name.len)) {
                IS(entry.val.type, expected[i].type);
                known++;
            }
    }
    IS(all, COUNT(expected));
    IS(known, COUNT(expected));
    REFUSED(AT(read_directory)(open_in(here, "linked", 0, FLAG(READ)), &own, &error), CODE(NOT_DIRECTORY));
}

static void cleaning(void)
{
    WORKS(AT(unlink_file_at)(here, as("link"), &error));
    WORKS(AT(unlink_file_at)(here, as("linked"), &error));
    WORKS(AT(unlink_file_at)(here, as("folder/moved"), &error));
    WORKS(AT(remove_directory_at)(here, as("folder"), &error));
}

bool exports_wasi_cli_run_run(void)
{
    folders();
    files();
    times();
    paths();
    refusals();
    listing();
    cleaning();
    say("well\n");
    return true;
}

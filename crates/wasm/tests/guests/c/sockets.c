/* wasi:sockets: both ends of connections and of datagrams, on the loopback; and names that are addresses. */
#include "judge.h"

#define TCP(name) wasi_sockets_tcp_method_tcp_socket_##name
#define UDP(name) wasi_sockets_udp_method_udp_socket_##name
#define INCOMING(name) wasi_sockets_udp_method_incoming_datagram_stream_##name
#define OUTGOING(name) wasi_sockets_udp_method_outgoing_datagram_stream_##name
#define OF(own) wasi_sockets_tcp_borrow_tcp_socket(own)
#define CODE(name) WASI_SOCKETS_NETWORK_ERROR_CODE_##name
#define FAMILY(name) WASI_SOCKETS_NETWORK_IP_ADDRESS_FAMILY_##name
#define SECOND (1000 * 1000 * 1000ULL)

/* What may have to be waited for: until the call no longer would block. */
#define IN_TIME(call, pollable)                                              \
    while (!(call)) {                                                        \
        IS(error, CODE(WOULD_BLOCK));                                        \
        wait_for(pollable);                                                  \
    }

typedef wasi_sockets_network_ip_socket_address_t address;
typedef wasi_sockets_tcp_own_tcp_socket_t tcp;

static wasi_sockets_network_error_code_t error;
static wasi_sockets_network_borrow_network_t network;

/* A port of the loopback; 0 is any. */
static address loopback(uint16_t port)
{
    return (address){
        .tag = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV4,
        .val.ipv4 = {.port = port, .address = {127, 0, 0, 1}},
    };
}

static bool is_same(address one, address two)
{
    return one.tag == two.tag && one.val.ipv4.port == two.val.ipv4.port &&
           !memcmp(&one.val.ipv4.address, &two.val.ipv4.address, 4);
}

static tcp stream_socket(void)
{
    tcp made;

    WORKS(wasi_sockets_tcp_create_socket_create_tcp_socket(FAMILY(IPV4), &made, &error));
    IS(TCP(address_family)(OF(made)), FAMILY(IPV4));
    return made;
}

static void options(wasi_sockets_tcp_borrow_tcp_socket_t socket)
{
    uint64_t number;
    uint32_t count;
    uint8_t hops;
    bool enabled;

    WORKS(TCP(set_keep_alive_enabled)(socket, true, &error));
    WORKS(TCP(keep_alive_enabled)(socket, &enabled, &error));
    CHECK(enabled);
    WORKS(TCP(set_keep_alive_idle_time)(socket, 30 * SECOND, &error));
    WORKS(TCP(keep_alive_idle_time)(socket, &number, &error));
    IS(number, 30 * SECOND);
    WORKS(TCP(set_keep_alive_interval)(socket, 5 * SECOND, &error));
    WORKS(TCP(keep_alive_interval)(socket, &number, &error));
    IS(number, 5 * SECOND);
    WORKS(TCP(set_keep_alive_count)(socket, 3, &error));
    WORKS(TCP(keep_alive_count)(socket, &count, &error));
    IS(count, 3);
    WORKS(TCP(set_hop_limit)(socket, 42, &error));
    WORKS(TCP(hop_limit)(socket, &hops, &error));
    IS(hops, 42);
    WORKS(TCP(set_receive_buffer_size)(socket, 65536, &error));
    WORKS(TCP(receive_buffer_size)(socket, &number, &error));
    CHECK(number >= 65536);
    WORKS(TCP(set_send_buffer_size)(socket, 65536, &error));
    WORKS(TCP(send_buffer_size)(socket, &number, &error));
    CHECK(number >= 65536);
    REFUSED(TCP(set_keep_alive_idle_time)(socket, 0, &error), CODE(INVALID_ARGUMENT));
    REFUSED(TCP(set_keep_alive_interval)(socket, 0, &error), CODE(INVALID_ARGUMENT));
    REFUSED(TCP(set_keep_alive_count)(socket, 0, &error), CODE(INVALID_ARGUMENT));
    REFUSED(TCP(set_hop_limit)(socket, 0, &error), CODE(INVALID_ARGUMENT));
    REFUSED(TCP(set_receive_buffer_size)(socket, 0, &error), CODE(INVALID_ARGUMENT));
    REFUSED(TCP(set_send_buffer_size)(socket, 0, &error), CODE(INVALID_ARGUMENT));
    REFUSED(TCP(set_listen_backlog_size)(socket, 0, &error), CODE(INVALID_ARGUMENT));
}

static void listen_at(tcp socket, address *at)
{
    address any = loopback(0);

    WORKS(TCP(start_bind)(OF(socket), network, &any, &error));
    IN_TIME(TCP(finish_bind)(OF(socket), &error), TCP(subscribe)(OF(socket)));
    WORKS(TCP(local_address)(OF(socket), at, &error));
    CHECK(at->val.ipv4.port);
    WORKS(TCP(set_listen_backlog_size)(OF(socket), 4, &error));
    CHECK(!TCP(is_listening)(OF(socket)));
    WORKS(TCP(start_listen)(OF(socket), &error));
    IN_TIME(TCP(finish_listen)(OF(socket), &error), TCP(subscribe)(OF(socket)));
    CHECK(TCP(is_listening)(OF(socket)));
}

static void connections(void)
{
    wasi_sockets_tcp_tuple2_own_input_stream_own_output_stream_t near;
    wasi_sockets_tcp_tuple3_own_tcp_socket_own_input_stream_own_output_stream_t far;
    tcp server = stream_socket(), client = stream_socket();
    address at, mine, theirs;

    options(OF(client));
    listen_at(server, &at);
    REFUSED(TCP(accept)(OF(server), &far, &error), CODE(WOULD_BLOCK));
    WORKS(TCP(start_connect)(OF(client), network, &at, &error));
    IN_TIME(TCP(finish_connect)(OF(client), &near, &error), TCP(subscribe)(OF(client)));
    IN_TIME(TCP(accept)(OF(server), &far, &error), TCP(subscribe)(OF(server)));

    WORKS(TCP(local_address)(OF(client), &mine, &error));
    WORKS(TCP(remote_address)(OF(far.f0), &theirs, &error));
    CHECK(is_same(mine, theirs));
    WORKS(TCP(remote_address)(OF(client), &theirs, &error));
    CHECK(is_same(at, theirs));

    write_to(near.f1, "a question");
    wasi_io_streams_output_stream_drop_own(near.f1);
    WORKS(TCP(shutdown)(OF(client), WASI_SOCKETS_TCP_SHUTDOWN_TYPE_SEND, &error));
    CHECK(!strcmp(rest_of(far.f1), "a question"));
    write_to(far.f2, "an answer");
    wasi_io_streams_output_stream_drop_own(far.f2);
    WORKS(TCP(shutdown)(OF(far.f0), WASI_SOCKETS_TCP_SHUTDOWN_TYPE_BOTH, &error));
    CHECK(!strcmp(rest_of(near.f0), "an answer"));
}

static void refusals(void)
{
    wasi_sockets_tcp_tuple2_own_input_stream_own_output_stream_t near;
    tcp server = stream_socket(), one = stream_socket(), two = stream_socket(), sixth;
    address at, elsewhere = loopback(0), six = {.tag = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV6};

    REFUSED(TCP(finish_bind)(OF(one), &error), CODE(NOT_IN_PROGRESS));
    REFUSED(TCP(finish_connect)(OF(one), &near, &error), CODE(NOT_IN_PROGRESS));
    REFUSED(TCP(finish_listen)(OF(one), &error), CODE(NOT_IN_PROGRESS));
    REFUSED(TCP(start_listen)(OF(one), &error), CODE(INVALID_STATE));
    REFUSED(TCP(remote_address)(OF(one), &at, &error), CODE(INVALID_STATE));
    REFUSED(TCP(shutdown)(OF(one), WASI_SOCKETS_TCP_SHUTDOWN_TYPE_BOTH, &error), CODE(INVALID_STATE));
    REFUSED(TCP(start_bind)(OF(one), network, &six, &error), CODE(INVALID_ARGUMENT));
    /* Of TEST-NET-1 (RFC 5737), which nobody has. */
    elsewhere.val.ipv4.address = (wasi_sockets_network_ipv4_address_t){192, 0, 2, 1};
    REFUSED(TCP(start_bind)(OF(one), network, &elsewhere, &error), CODE(ADDRESS_NOT_BINDABLE));

    listen_at(server, &at);
    REFUSED(TCP(start_bind)(OF(two), network, &at, &error), CODE(ADDRESS_IN_USE));
    /* Nobody is there any more. */
    wasi_sockets_tcp_tcp_socket_drop_own(server);
    two = stream_socket();
    WORKS(TCP(start_connect)(OF(two), network, &at, &error));
    while (!TCP(finish_connect)(OF(two), &near, &error) && error == CODE(WOULD_BLOCK))
        wait_for(TCP(subscribe)(OF(two)));
    IS(error, CODE(CONNECTION_REFUSED));

    if (wasi_sockets_tcp_create_socket_create_tcp_socket(FAMILY(IPV6), &sixth, &error))
        IS(TCP(address_family)(OF(sixth)), FAMILY(IPV6));
    else
        IS(error, CODE(NOT_SUPPORTED));
}

static wasi_sockets_udp_borrow_udp_socket_t datagram_socket(address *at)
{
    wasi_sockets_udp_own_udp_socket_t made;
    wasi_sockets_udp_borrow_udp_socket_t socket;
    address any = loopback(0);

    WORKS(wasi_sockets_udp_create_socket_create_udp_socket(FAMILY(IPV4), &made, &error));
    socket = wasi_sockets_udp_borrow_udp_socket(made);
    IS(UDP(address_family)(socket), FAMILY(IPV4));
    WORKS(UDP(start_bind)(socket, network, &any, &error));
    IN_TIME(UDP(finish_bind)(socket, &error), UDP(subscribe)(socket));
    WORKS(UDP(local_address)(socket, at, &error));
    return socket;
}

static void datagrams(void)
{
    wasi_sockets_udp_tuple2_own_incoming_datagram_stream_own_outgoing_datagram_stream_t one, two;
    wasi_sockets_udp_list_incoming_datagram_t got;
    wasi_sockets_udp_borrow_incoming_datagram_stream_t in;
    wasi_sockets_udp_borrow_outgoing_datagram_stream_t out;
    address first_at, second_at, told;
    wasi_sockets_udp_borrow_udp_socket_t first = datagram_socket(&first_at), second = datagram_socket(&second_at);
    uint64_t number;
    uint8_t hops;

    WORKS(UDP(set_unicast_hop_limit)(first, 42, &error));
    WORKS(UDP(unicast_hop_limit)(first, &hops, &error));
    IS(hops, 42);
    WORKS(UDP(set_receive_buffer_size)(first, 65536, &error));
    WORKS(UDP(receive_buffer_size)(first, &number, &error));
    CHECK(number >= 65536);
    WORKS(UDP(set_send_buffer_size)(first, 65536, &error));
    WORKS(UDP(send_buffer_size)(first, &number, &error));
    CHECK(number >= 65536);
    REFUSED(UDP(set_unicast_hop_limit)(first, 0, &error), CODE(INVALID_ARGUMENT));
    REFUSED(UDP(remote_address)(first, &told, &error), CODE(INVALID_STATE));

    /* One speaks to the other alone, and the other to whom it names. */
    WORKS(UDP(stream)(first, &second_at, &one, &error));
    WORKS(UDP(remote_address)(first, &told, &error));
    CHECK(is_same(told, second_at));
    WORKS(UDP(stream)(second, NULL, &two, &error));

    wasi_sockets_udp_outgoing_datagram_t said[] = {{.data = *bytes("one")}, {.data = *bytes("two")}};
    wasi_sockets_udp_list_outgoing_datagram_t both = {said, 2};

    out = wasi_sockets_udp_borrow_outgoing_datagram_stream(one.f1);
    IN_TIME(OUTGOING(check_send)(out, &number, &error) && number >= 2, OUTGOING(subscribe)(out));
    WORKS(OUTGOING(send)(out, &both, &number, &error));
    IS(number, 2);
    in = wasi_sockets_udp_borrow_incoming_datagram_stream(two.f0);
    for (size_t i = 0; i < 2; i++) {
        wait_for(INCOMING(subscribe)(in));
        WORKS(INCOMING(receive)(in, 1, &got, &error));
        IS(got.len, 1);
        SAYS(got.ptr[0].data, i ? "two" : "one");
        CHECK(is_same(got.ptr[0].remote_address, first_at));
    }
    WORKS(INCOMING(receive)(in, 1, &got, &error));
    IS(got.len, 0);

    wasi_sockets_udp_outgoing_datagram_t back = {.data = *bytes("three"), .remote_address = {true, first_at}};
    wasi_sockets_udp_list_outgoing_datagram_t answer = {&back, 1};

    out = wasi_sockets_udp_borrow_outgoing_datagram_stream(two.f1);
    IN_TIME(OUTGOING(check_send)(out, &number, &error) && number >= 1, OUTGOING(subscribe)(out));
    WORKS(OUTGOING(send)(out, &answer, &number, &error));
    in = wasi_sockets_udp_borrow_incoming_datagram_stream(one.f0);
    wait_for(INCOMING(subscribe)(in));
    WORKS(INCOMING(receive)(in, 9, &got, &error));
    IS(got.len, 1);
    SAYS(got.ptr[0].data, "three");
    /* Whom it is for must be said. */
    back.remote_address.is_some = false;
    IN_TIME(OUTGOING(check_send)(out, &number, &error) && number >= 1, OUTGOING(subscribe)(out));
    REFUSED(OUTGOING(send)(out, &answer, &number, &error), CODE(INVALID_ARGUMENT));
}

static void names(void)
{
    static const struct {
        const char *name;
        int tag;
        uint8_t first;
        uint16_t last;
    } table[] = {
        {"127.0.0.2", WASI_SOCKETS_NETWORK_IP_ADDRESS_IPV4, 127, 2},
        {"::1", WASI_SOCKETS_NETWORK_IP_ADDRESS_IPV6, 0, 1},
    };
    wasi_sockets_ip_name_lookup_own_resolve_address_stream_t own;
    wasi_sockets_ip_name_lookup_borrow_resolve_address_stream_t stream;
    wasi_sockets_ip_name_lookup_option_ip_address_t next;

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        WORKS(wasi_sockets_ip_name_lookup_resolve_addresses(network, as(table[i].name), &own, &error));
        stream = wasi_sockets_ip_name_lookup_borrow_resolve_address_stream(own);
        IN_TIME(wasi_sockets_ip_name_lookup_method_resolve_address_stream_resolve_next_address(stream, &next, &error),
                wasi_sockets_ip_name_lookup_method_resolve_address_stream_subscribe(stream));
        CHECK(next.is_some);
        IS(next.val.tag, table[i].tag);
        IS(i ? next.val.val.ipv6.f0 : next.val.val.ipv4.f0, table[i].first);
        IS(i ? next.val.val.ipv6.f7 : next.val.val.ipv4.f3, table[i].last);
        WORKS(wasi_sockets_ip_name_lookup_method_resolve_address_stream_resolve_next_address(stream, &next, &error));
        CHECK(!next.is_some);
    }
    REFUSED(wasi_sockets_ip_name_lookup_resolve_addresses(network, as("a name"), &own, &error), CODE(INVALID_ARGUMENT));
}

bool exports_wasi_cli_run_run(void)
{
    network = wasi_sockets_network_borrow_network(wasi_sockets_instance_network_instance_network());
    connections();
    refusals();
    datagrams();
    names();
    say("well\n");
    return true;
}

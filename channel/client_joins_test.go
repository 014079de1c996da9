package channel

import "testing"

// TestClientJoinsRules runs scripts about joins that wait.
func TestClientJoinsRules(t *testing.T) {
	t.Parallel()
	playScripts(t, []clientScript{
		{"a join that is refused because there are too many is sent again, and its timeout goes on", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			push a
			msg 1 1 phx_reply busy => rejoin in 0
			params 1
			due rejoin => params 1
			params 1 => send 2 2 phx_join
			msg 1 1 phx_reply ok => drop
			msg 2 2 phx_reply busy => rejoin in 0
			due rejoin => params 1
			params 1 => send 3 3 phx_join
			msg 3 3 phx_reply error => errored; answer join error; rejoin in 1; error!`, "a rejoin"},
		{"a pause ends with the timeout of the join", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply busy => rejoin in 0
			due join => errored; answer join timeout; rejoin in 1; error!
			due rejoin => joining; params 2`, "join"},
		{"a pause ends with the connection", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply busy => rejoin in 0
			closed => errored; error!
			open => joining; params 2
			params 2 => send 2 2 phx_join`, "join"},
		{"a pause ends with a leave, which has nothing to send", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply busy => rejoin in 0
			leave => closed; answer join closed; answer leave ok; closed!`, ""},
		{"a pause ends while the client is not authenticated", `
			needs
			open
			auth granted
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply busy => rejoin in 0
			auth expired
			due rejoin
			auth granted => params 1
			params 1 => send 2 2 phx_join`, "join"},
		{"Rejoin does not wait for the delay", clientJoined + `
			rejoin
			msg 1 1 phx_error => errored; rejoin in 1; error!
			rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			rejoin
			msg 2 2 phx_reply error => errored; answer join error; rejoin in 2; error!`, "rejoin"},
		{"Rejoin without a connection has no effect on a channel that joins by itself", clientJoined + `
			closed => errored; error!
			rejoin
			open => joining; params 2`, "join"},
		{"ManualRejoin: after a loss the channel waits for Rejoin, and pushes wait", `
			manual` + clientJoined + `
			closed => errored; error!
			push a
			open
			closed
			open
			rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply ok => joined; send 2 3 a; answer join ok; joined!`, "a"},
		{"ManualRejoin: Rejoin without a connection lasts over failed attempts", `
			manual` + clientJoined + `
			closed => errored; error!
			rejoin
			closed
			open => joining; params 2
			params 2 => send 2 2 phx_join
			closed => errored; error!
			open`, ""},
		{"ManualRejoin: a crash or a refusal has no delay", `
			manual` + clientJoined + `
			msg 1 1 phx_error => errored; error!
			rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply error => errored; answer join error; error!
			rejoin => joining; params 3
			params 3 error => errored; answer join cause; error!
			leave => closed; answer leave ok; closed!`, ""},
		{"ManualRejoin: a Join without a connection waits for Rejoin; its timeout runs", `
			manual
			join => joining
			open
			rejoin => params 1
			params 1 => send 1 1 phx_join`, "join"},
		{"ManualRejoin: a Join without a connection is marked over failed attempts", `
			manual
			join => joining
			rejoin
			closed => errored; error!
			due join => answer join timeout
			open => joining; params 2`, "join"},
		{"ManualRejoin: a Join without a connection times out", `
			manual
			join => joining
			open
			due join => errored; answer join timeout; error!
			rejoin => joining; params 2`, "join"},
		{"ManualRejoin: a Join with a connection is sent", `
			manual
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply busy => rejoin in 0
			due rejoin => params 1`, "join"},
		{"ManualRejoin: a login does not end the wait for Rejoin", `
			manual
			needs
			open
			auth granted
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply expired => errored; answer join error; error!
			auth expired
			auth granted
			rejoin => joining; params 2`, "join"},
	})
}

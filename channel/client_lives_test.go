package channel

import "testing"

// TestClientLivesRules runs scripts about the lives of a channel.
func TestClientLivesRules(t *testing.T) {
	t.Parallel()
	playScripts(t, []clientScript{
		{"a Join after phx_close begins the next life, and earlier messages have no effect", clientJoined + `
			push a => send 1 2 a
			msg 1 1 phx_close => closed; answer a lost; closed!
			push b => answer b closed
			join2 => joining; params 2
			push c
			msg 1 1 phx_close => drop
			msg 1 - said => drop
			params 1
			params 2 => send 3 3 phx_join
			msg 1 2 phx_reply ok => drop
			msg 3 3 phx_reply ok => joined; send 3 4 c; answer join2 ok; joined!
			msg 3 4 phx_reply ok => answer c ok
			msg 1 1 phx_error => drop
			msg 3 3 phx_close => closed; closed!`, ""},
		{"a Join after a Leave waits until the leave is answered", clientJoined + `
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			push b => answer b closed
			join2
			push c
			msg - - said => drop
			msg 1 2 phx_reply ok => answer a ok
			msg 1 3 phx_reply ok => closed; answer leave ok; closed!; joining; params 2
			msg 1 1 phx_close => drop
			params 2 => send 4 4 phx_join
			msg 4 4 phx_reply ok => joined; send 4 5 c; answer join2 ok; joined!`, "c"},
		{"a Join after a Leave begins its life when the leave times out", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			join2
			due leave => closed; answer leave timeout; closed!; joining; params 2
			msg 1 2 phx_reply ok => drop
			params 2 => send 3 3 phx_join`, "join"},
		{"the connection is lost while a Join waits for a leave", clientJoined + `
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			join2
			closed => closed; answer a lost; answer leave ok; closed!; joining
			open => params 2
			params 2 => send 4 4 phx_join`, "join"},
		{"a Leave cancels a Join that waits, and both leaves get the one answer", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			join2
			push a
			leave2 => answer a closed; canceled; answer join2 closed
			push b => answer b closed
			msg 1 2 phx_reply ok => closed; answer leave ok; answer leave2 ok; closed!
			join3 => joining; params 2`, "join"},
		{"a Join that follows a canceled one waits as well", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			join2
			leave2 => canceled; answer join2 closed
			join3
			due leave => closed; answer leave timeout; answer leave2 timeout; closed!; joining; params 2
			leave3 => closed; answer join3 closed; answer leave3 ok; closed!`, ""},
		{"a life that is left while it joins is followed by the next one", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			leave => leaving; answer join closed; send 1 2 phx_leave
			join2
			msg 1 1 phx_reply ok => drop
			msg 1 2 phx_reply ok => closed; answer leave ok; closed!; joining; params 2`, "join"},
		{"a Join that arrives before the Leave of the life before it waits for that", clientJoined + `
			join2
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			msg 1 2 phx_reply ok => answer a ok
			msg 1 3 phx_reply ok => closed; answer leave ok; closed!; joining; params 2`, "join"},
		{"a Leave of an earlier life has no effect on the next one", clientJoined + `
			msg 1 1 phx_close => closed; closed!
			join2 => joining; params 2
			leave => answer leave ok
			params 2 => send 2 2 phx_join`, "join"},
		{"a Join that arrives after its own Leave is canceled", `
			open
			leave1 => answer leave1 ok
			join => canceled; answer join closed
			join2 => joining; params 1`, "join"},
		{"a life begins with the delays of a new channel", clientJoined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			due rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply error => errored; answer join error; rejoin in 2; error!
			giveup => closed; closed!
			join2 => joining; params 3
			params 3 => send 3 3 phx_join
			msg 3 3 phx_reply error => errored; answer join2 error; rejoin in 1; error!`, "rejoin"},
		{"the socket closes while a Join waits for a leave", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			join2
			push a
			end => closed; answer a closed; answer leave closed; closed!; canceled; answer join2 closed
			join3 => canceled; answer join3 closed`, ""},
	})
}

package channel

import (
	"fmt"
	"strings"
	"testing"

	"bennu.example/push"
)

// TestClientRules runs scripts of inputs and expected outputs. A line without "=>" must have no
// visible output. clientRig describes the inputs.
func TestClientRules(t *testing.T) {
	t.Parallel()
	// joined is the beginning of most scripts. The next ref is 2.
	const joined = `
		open
		join => joining; params 1
		params 1 => send 1 1 phx_join
		msg 1 1 phx_reply ok => joined; answer join ok; joined!`
	for _, test := range []struct{ name, script, armed string }{
		{"a new channel is closed and rejects pushes", `
			open
			push a => answer a not joined`, ""},
		{"join sends phx_join, ref is join_ref", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join`, "join"},
		{"WaitForAuth: joins wait until the client is authenticated, without a timeout", `
			needs
			join => joining
			open
			auth missing
			push a
			auth granted => params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply ok => joined; send 1 2 a; answer join ok; joined!
			msg 1 2 phx_reply ok => answer a ok
			auth pending
			closed => errored; error!
			open => joining
			auth expired
			auth granted => params 2
			auth pending
			params 2
			auth granted => params 2
			params 2 => send 3 3 phx_join`, "join"},
		{"WaitForAuth: a channel that ended with a logout is joined again after the next login", `
			needs
			open
			auth granted
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply ok => joined; answer join ok; joined!
			msg 1 1 phx_close logout => errored; rejoin in 1; error!
			auth missing
			due rejoin => joining
			auth granted => params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply ok => joined; answer join ok; joined!
			auth missing
			push a => send 2 3 a
			msg 2 2 phx_close => errored; answer a lost; rejoin in 1; error!
			auth granted => joining; params 3
			params 3 => send 4 4 phx_join
			msg 4 4 phx_reply ok => joined; answer join ok; joined!
			msg 4 4 phx_close => closed; closed!`, ""},
		{"a join that was refused because the token had expired waits for the next one", `
			open
			auth expired
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply expired => errored; answer join error; rejoin in 1; error!
			due rejoin => joining
			auth granted => params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply expired => errored; answer join error; rejoin in 2; error!
			auth expired
			auth granted => joining; params 3
			params 3 => send 3 3 phx_join
			auth expired
			msg 3 3 phx_reply ok => joined; answer join ok; joined!`, ""},
		{"join before the connection waits for it; its timeout runs", `
			join => joining
			open => params 1
			params 1 => send 1 1 phx_join`, "join"},
		{"params of an earlier join are ignored", `
			open
			join => joining; params 1
			closed => errored; error!
			params 1
			open => joining; params 2
			params 1
			params 2 => send 1 1 phx_join
			params 2`, "join"},
		{"failed params count as a refusal", `
			open
			join => joining; params 1
			params 1 error => errored; answer join cause; rejoin in 1; error!`, "rejoin"},
		{"the buffer is sent in order, before the join is answered", `
			open
			join => joining; params 1
			push a
			push b
			params 1 => send 1 1 phx_join
			push c
			msg 1 1 phx_reply ok => joined; send 1 2 a; send 1 3 b; send 1 4 c; answer join ok; joined!`, "a b c"},
		{"a refused join is repeated with a new ref, and each is answered", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply error => errored; answer join error; rejoin in 1; error!
			due rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			msg 1 1 phx_reply ok => drop
			msg 2 2 phx_reply error => errored; answer join error; rejoin in 2; error!
			due rejoin => joining; params 3
			params 3 => send 3 3 phx_join
			msg 3 3 phx_reply ok => joined; answer join ok; joined!
			msg 3 3 phx_error => errored; rejoin in 1; error!`, "rejoin"},
		{"every status except ok is a refusal", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply maybe => errored; answer join maybe; rejoin in 1; error!`, "rejoin"},
		{"a refusal whose join_ref is null", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg - 1 phx_reply error => errored; answer join error; rejoin in 1; error!`, "rejoin"},
		{"a join that times out is undone by a leave, and a late ok is ignored", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			due join => send 1 2 phx_leave; errored; answer join timeout; rejoin in 1; error!
			msg 1 1 phx_reply ok => drop
			msg 1 2 phx_reply ok => drop
			due rejoin => joining; params 2
			params 2 => send 3 3 phx_join
			msg 3 3 phx_reply ok => joined; answer join ok; joined!`, ""},
		{"offline, a join times out without a leave, and is repeated later", `
			join => joining
			due join => errored; answer join timeout; error!
			open => joining; params 2
			params 2 => send 1 1 phx_join`, "join"},
		{"a join that waits for its params times out without a leave", `
			open
			join => joining; params 1
			due join => errored; answer join timeout; rejoin in 1; error!
			params 1`, "rejoin"},
		{"a lost connection does not answer the join, and its timeout continues", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			closed => errored; error!
			due join => answer join timeout
			open => joining; params 2`, "join"},
		{"a lost connection during a rejoin stops its timer", joined + `
			closed => errored; error!
			open => joining; params 2
			closed => errored; error!`, ""},
		{"a failed connection is reported once", `
			join => joining
			closed => errored; error!
			closed
			open => joining; params 2`, "join"},
		{"phx_error starts one rejoin", joined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			msg 1 1 phx_error
			due rejoin => joining; params 2`, "join"},
		{"phx_error while joining", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_error => errored; rejoin in 1; error!
			msg 1 1 phx_reply ok => drop`, "join rejoin"},
		{"a closed channel does not rejoin", joined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			leave => closed; answer leave ok; closed!
			due rejoin
			open`, ""},
		{"phx_close closes the channel permanently and fails its pushes", joined + `
			push a => send 1 2 a
			msg 1 1 phx_close => closed; answer a lost; closed!
			push b => answer b closed
			closed
			open
			msg 1 2 phx_reply ok`, ""},
		{"a Join after phx_close begins the next life, and earlier messages have no effect", joined + `
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
		{"a Join after a Leave waits until the leave is answered", joined + `
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
		{"a Join after a Leave begins its life when the leave times out", joined + `
			leave => leaving; send 1 2 phx_leave
			join2
			due leave => closed; answer leave timeout; closed!; joining; params 2
			msg 1 2 phx_reply ok => drop
			params 2 => send 3 3 phx_join`, "join"},
		{"the connection is lost while a Join waits for a leave", joined + `
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			join2
			closed => closed; answer a lost; answer leave ok; closed!; joining
			open => params 2
			params 2 => send 4 4 phx_join`, "join"},
		{"a Leave cancels a Join that waits, and both leaves get the one answer", joined + `
			leave => leaving; send 1 2 phx_leave
			join2
			push a
			leave2 => answer a closed; canceled; answer join2 closed
			push b => answer b closed
			msg 1 2 phx_reply ok => closed; answer leave ok; answer leave2 ok; closed!
			join3 => joining; params 2`, "join"},
		{"a Join that follows a canceled one waits as well", joined + `
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
		{"a Join that arrives before the Leave of the life before it waits for that", joined + `
			join2
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			msg 1 2 phx_reply ok => answer a ok
			msg 1 3 phx_reply ok => closed; answer leave ok; closed!; joining; params 2`, "join"},
		{"a Leave of an earlier life has no effect on the next one", joined + `
			msg 1 1 phx_close => closed; closed!
			join2 => joining; params 2
			leave => answer leave ok
			params 2 => send 2 2 phx_join`, "join"},
		{"a Join that arrives after its own Leave is canceled", `
			open
			leave1 => answer leave1 ok
			join => canceled; answer join closed
			join2 => joining; params 1`, "join"},
		{"a life begins with the delays of a new channel", joined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			due rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply error => errored; answer join error; rejoin in 2; error!
			giveup => closed; closed!
			join2 => joining; params 3
			params 3 => send 3 3 phx_join
			msg 3 3 phx_reply error => errored; answer join2 error; rejoin in 1; error!`, "rejoin"},
		{"the socket closes while a Join waits for a leave", joined + `
			leave => leaving; send 1 2 phx_leave
			join2
			push a
			end => closed; answer a closed; answer leave closed; closed!; canceled; answer join2 closed
			join3 => canceled; answer join3 closed`, ""},
		{"phx_close while joining answers the join", `
			open
			join => joining; params 1
			push a
			params 1 => send 1 1 phx_join
			msg 1 1 phx_close => closed; answer a closed; answer join closed; closed!`, ""},
		{"phx_close without refs, as in 1.0.0 for a join without join_ref", joined + `
			msg - - phx_close => closed; closed!`, ""},
		{"in 1.0.0 the ref tells that an earlier join ended", joined + `
			msg - 9 phx_close => drop
			msg - 9 phx_error => drop
			msg - 1 phx_close => closed; closed!`, ""},
		{"leave sends phx_leave with the join_ref, and the reply closes the channel", joined + `
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			push b => answer b closed
			msg - - said => drop
			msg 1 2 phx_reply ok => answer a ok
			msg 1 3 phx_reply ok => closed; answer leave ok; closed!
			msg 1 1 phx_close`, ""},
		{"phx_close before the reply to a leave fails the pushes in flight", joined + `
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			msg 1 1 phx_close => closed; answer a lost; answer leave ok; closed!`, ""},
		{"phx_error while leaving", joined + `
			leave => leaving; send 1 2 phx_leave
			msg 1 1 phx_error => closed; answer leave ok; closed!`, ""},
		{"leave times out", joined + `
			leave => leaving; send 1 2 phx_leave
			due leave => closed; answer leave timeout; closed!`, ""},
		{"lost connection while leaving", joined + `
			leave => leaving; send 1 2 phx_leave
			closed => closed; answer leave ok; closed!
			open`, ""},
		{"leave while offline", joined + `
			closed => errored; error!
			push a
			leave => closed; answer a closed; answer leave ok; closed!
			open`, ""},
		{"a join waits until the previous channel has left the topic", `
			open
			taken
			join => joining
			params 1
			push a
			msg - - said => drop
			msg 7 8 phx_reply ok => drop
			msg - - phx_close => drop
			msg - - phx_error => drop
			free => params 1
			params 1 => send 1 1 phx_join
			msg - - said => event said
			msg 1 1 phx_reply ok => joined; send 1 2 a; answer join ok; joined!
			free`, "a"},
		{"a join that waits for the topic times out and is repeated", `
			open
			taken
			join => joining
			due join => errored; answer join timeout; rejoin in 1; error!
			due rejoin => joining
			free => params 2
			params 2 => send 1 1 phx_join`, "join"},
		{"a join that waits for the topic is left", `
			open
			taken
			join => joining
			push a
			leave => closed; answer a closed; answer join closed; answer leave ok; closed!
			free`, ""},
		{"a join that waits for the topic loses its connection", `
			open
			taken
			join => joining
			closed => errored; error!
			open => joining
			params 2
			free => params 2
			params 2 => send 1 1 phx_join`, "join"},
		{"the topic becomes free while there is no connection", `
			open
			taken
			join => joining
			closed => errored; error!
			free
			open => joining; params 2`, "join"},
		{"leave before join does nothing", `
			open
			leave0 => answer leave0 ok
			join => joining; params 1`, "join"},
		{"leave while joining sends phx_leave, and a late ok is ignored", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			leave => leaving; answer join closed; send 1 2 phx_leave
			msg 1 1 phx_reply ok => drop
			msg 1 2 phx_reply ok => closed; answer leave ok; closed!`, ""},
		{"leave while the params are evaluated", `
			open
			join => joining; params 1
			leave => closed; answer join closed; answer leave ok; closed!
			params 1`, ""},
		{"other join_refs are dropped, and null and empty ones accepted, in any state", joined + `
			msg 9 - said => drop
			msg x - said => drop
			msg 01 - said => drop
			msg - - said => event said
			msg '' - said => event said
			msg 1 - said => event said
			msg 1 1 phx_error => errored; rejoin in 1; error!
			msg 1 - said => event said
			msg - - said => event said
			due rejoin => joining; params 2
			msg 1 - said => drop
			msg - - said => event said`, "join"},
		{"phx_join and phx_leave from a server are events", joined + `
			msg 1 - phx_join => event phx_join
			msg 1 - phx_leave => event phx_leave`, ""},
		{"a new connection rejoins immediately and resets the number of tries", joined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			due rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply error => errored; answer join error; rejoin in 2; error!
			closed
			open => joining; params 3
			params 3 => send 3 3 phx_join
			msg 3 3 phx_reply error => errored; answer join error; rejoin in 1; error!`, "rejoin"},
		{"rejoining can be given up", joined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			giveup => closed; closed!`, ""},

		{"a push is sent immediately if joined, otherwise after the rejoin", joined + `
			push a => send 1 2 a
			msg 1 2 phx_reply ok => answer a ok
			closed => errored; error!
			push b
			open => joining; params 2
			push c
			params 2 => send 3 3 phx_join
			msg 3 3 phx_reply ok => joined; send 3 4 b; send 3 5 c; answer join ok; joined!`, "b c"},
		{"a buffered push that timed out is not sent", `
			open
			join => joining; params 1
			push a
			push b
			push c
			due b => answer b timeout
			due a => answer a timeout
			params 1 => send 1 1 phx_join
			msg 1 1 phx_reply ok => joined; send 1 2 c; answer join ok; joined!`, "c"},
		{"no timeout after ok, no ok after the timeout", joined + `
			push a => send 1 2 a
			msg 1 2 phx_reply ok => answer a ok
			due a
			push b => send 1 3 b
			due b => answer b timeout
			msg 1 3 phx_reply ok => drop`, ""},
		{"a lost connection fails the pushes in flight immediately", joined + `
			push a => send 1 2 a
			push b => send 1 3 b
			closed => errored; answer a lost; answer b lost; error!`, ""},
		{"pushes that were not sent are sent after the rejoin, before later ones", joined + `
			push a => send 1 2 a
			push b => send 1 3 b
			push c => send 1 4 c
			unsent b
			unsent c
			closed => errored; answer a lost; error!
			push d
			open => joining; params 2
			params 2 => send 5 5 phx_join
			msg 5 5 phx_reply ok => joined; send 5 6 b; send 5 7 c; send 5 8 d; answer join ok; joined!`, "b c d"},
		{"PushNow sends at once or fails", `
			now a => answer a offline
			open
			join => joining; params 1
			now b => answer b offline
			params 1 => send 1 1 phx_join
			now c => answer c offline
			msg 1 1 phx_reply ok => joined; answer join ok; joined!
			now d => send 1 2 d
			now e congested => answer e offline
			msg 1 2 phx_reply ok => answer d ok
			closed => errored; error!
			now f => answer f offline
			open => joining; params 2
			params 2 => send 3 3 phx_join
			msg 3 3 phx_reply ok => joined; answer join ok; joined!
			leave => leaving; send 3 4 phx_leave
			now g => answer g offline
			msg 3 4 phx_reply ok => closed; answer leave ok; closed!
			now h => answer h offline`, ""},
		{"a push of PushNow that was not sent fails instead of waiting for the rejoin", joined + `
			now a => send 1 2 a
			now b => send 1 3 b
			push c => send 1 4 c
			unsent b
			unsent c
			closed => errored; answer a lost; answer b offline; error!
			open => joining; params 2
			params 2 => send 5 5 phx_join
			msg 5 5 phx_reply ok => joined; send 5 6 c; answer join ok; joined!`, "c"},
		{"a push of PushNow that was not sent when the channel ends", joined + `
			now a => send 1 2 a
			now b => send 1 3 b
			unsent b
			end => closed; answer a lost; answer b offline; closed!`, ""},
		{"PushNow does not delay a join after dropped records", joined + `
			push a => send 1 2 a
			again
			now b => answer b offline
			msg 1 2 phx_reply ok => answer a ok; joining; params 2`, "join"},
		{"PushNow times out", joined + `
			now a => send 1 2 a
			due a => answer a timeout
			msg 1 2 phx_reply ok => drop`, ""},
		{"a crash fails all pushes in flight, sent or not", joined + `
			push a => send 1 2 a
			unsent a
			msg 1 1 phx_error => errored; answer a lost; rejoin in 1; error!
			msg - 2 phx_reply error => drop`, "rejoin"},
		{"a reply may have any status; a second one is dropped", joined + `
			push a => send 1 2 a
			msg 1 2 phx_reply maybe => answer a maybe
			msg 1 2 phx_reply ok => drop`, ""},
		{"an error reply for an unknown topic has a null join_ref", joined + `
			push a => send 1 2 a
			msg - 2 phx_reply error => answer a error`, ""},
		{"replies that no push waits for", joined + `
			msg 1 1 phx_reply error => drop
			msg 1 99 phx_reply ok => drop
			msg 1 - phx_reply ok => drop
			msg 1 18446744073709551616 phx_reply ok => drop
			msg 1 '' phx_reply ok => drop`, ""},
		{"a push that cannot be encoded", joined + `
			push a => send 1 2 a
			refused 2 => answer a payload
			refused 2`, ""},
		{"a join that cannot be encoded counts as a refusal", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			refused 1 => errored; answer join payload; rejoin in 1; error!
			refused 1`, "rejoin"},
		{"cancel removes a buffered push and ignores the reply to a sent one", joined + `
			push a => send 1 2 a
			cancel a => answer a canceled
			msg 1 2 phx_reply ok => drop
			closed => errored; error!
			push b
			cancel b => answer b canceled
			cancel b
			open => joining; params 2
			params 2 => send 3 3 phx_join
			msg 3 3 phx_reply ok => joined; answer join ok; joined!`, ""},
		{"the socket closes", joined + `
			push a => send 1 2 a
			push b => send 1 3 b
			unsent b
			end => closed; answer a lost; answer b closed; closed!
			end`, ""},
		{"the socket closes while leaving", joined + `
			leave => leaving; send 1 2 phx_leave
			end => closed; answer leave closed; closed!`, ""},
		{"after dropped records the channel joins again", joined + `
			again => joining; params 2
			again
			params 2 => send 2 2 phx_join
			msg 1 1 phx_close => drop
			msg 2 2 phx_reply ok => joined; answer join ok; joined!`, ""},
		{"to join again waits for the pushes in flight, and later ones wait for the join", joined + `
			push a => send 1 2 a
			push b => send 1 3 b
			again
			push c
			msg 1 2 phx_reply ok => answer a ok
			due b => answer b timeout; joining; params 2
			params 2 => send 4 4 phx_join
			msg 4 4 phx_reply ok => joined; send 4 5 c; answer join ok; joined!`, "c"},
		{"without a connection the next join is the rejoin", joined + `
			push a => send 1 2 a
			again
			closed => errored; answer a lost; error!
			again
			open => joining; params 2`, "join"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newClientRig()
			playScript(t, test.script, r.do, r.armed, test.armed)
		})
	}
}

func TestClientFlightShrinks(t *testing.T) {
	t.Parallel()
	r := newClientRig()
	for _, line := range []string{"open", "join", "params 1", "msg 1 1 phx_reply ok"} {
		r.do(line)
	}
	for _, n := range []int{1, clientFlightKept, 10 * clientFlightKept} {
		first := r.refs + 1
		for i := range n {
			r.do(fmt.Sprintf("push p%d", first+uint64(i)))
		}
		for i := range n {
			if got := r.do(fmt.Sprintf("msg 1 %d phx_reply ok", first+uint64(i))); !strings.HasSuffix(got, "ok") {
				t.Fatal(got)
			}
		}
		if kept := r.s.flight != nil; kept != (n <= clientFlightKept) {
			t.Fatalf("after %d pushes in flight: kept %t", n, kept)
		}
	}
}

func TestFailedPushHasAStatusAndAReason(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err          error
		status, json string
	}{
		{fmt.Errorf("channel: push a to b: %w", push.ErrTimeout), push.StatusTimeout, "{}"},
		{fmt.Errorf("channel: push a to b: %w", push.ErrLost), push.StatusFailed,
			`{"reason":"channel: push a to b: lost before the reply"}`},
	} {
		r := failed(test.err)
		got, err := r.Payload.JSON()
		if err != nil || r.Status != test.status || string(got) != test.json || r.Err != test.err {
			t.Errorf("%v: %q %s %v, %v", test.err, r.Status, got, r.Err, err)
		}
	}
}

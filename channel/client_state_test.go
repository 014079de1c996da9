package channel

import (
	"fmt"
	"strings"
	"testing"

	"bennu.example/push"
)

// clientJoined is the beginning of most scripts. The next ref is 2.
const clientJoined = `
		open
		join => joining; params 1
		params 1 => send 1 1 phx_join
		msg 1 1 phx_reply ok => joined; answer join ok; joined!`

// clientScript is a script of inputs and expected outputs, and the timers that run at its end.
type clientScript struct{ name, script, armed string }

// playScripts runs scripts. A line without "=>" must have no visible output. clientRig describes
// the inputs.
func playScripts(t *testing.T, scripts []clientScript) {
	t.Helper()
	for _, test := range scripts {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newClientRig()
			playScript(t, test.script, r.do, r.armed, test.armed)
		})
	}
}

func TestClientRules(t *testing.T) {
	t.Parallel()
	playScripts(t, []clientScript{
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
		{"a lost connection during a rejoin stops its timer", clientJoined + `
			closed => errored; error!
			open => joining; params 2
			closed => errored; error!`, ""},
		{"a failed connection is reported once", `
			join => joining
			closed => errored; error!
			closed
			open => joining; params 2`, "join"},
		{"phx_error starts one rejoin", clientJoined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			msg 1 1 phx_error
			due rejoin => joining; params 2`, "join"},
		{"phx_error while joining", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			msg 1 1 phx_error => errored; rejoin in 1; error!
			msg 1 1 phx_reply ok => drop`, "join rejoin"},
		{"a closed channel does not rejoin", clientJoined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			leave => closed; answer leave ok; closed!
			due rejoin
			open`, ""},
		{"phx_close closes the channel permanently and fails its pushes", clientJoined + `
			push a => send 1 2 a
			msg 1 1 phx_close => closed; answer a lost; closed!
			push b => answer b closed
			closed
			open
			msg 1 2 phx_reply ok`, ""},
		{"phx_close while joining answers the join", `
			open
			join => joining; params 1
			push a
			params 1 => send 1 1 phx_join
			msg 1 1 phx_close => closed; answer a closed; answer join closed; closed!`, ""},
		{"phx_close without refs, as in 1.0.0 for a join without join_ref", clientJoined + `
			msg - - phx_close => closed; closed!`, ""},
		{"in 1.0.0 the ref tells that an earlier join ended", clientJoined + `
			msg - 9 phx_close => drop
			msg - 9 phx_error => drop
			msg - 1 phx_close => closed; closed!`, ""},
		{"leave sends phx_leave with the join_ref, and the reply closes the channel", clientJoined + `
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			push b => answer b closed
			msg - - said => drop
			msg 1 2 phx_reply ok => answer a ok
			msg 1 3 phx_reply ok => closed; answer leave ok; closed!
			msg 1 1 phx_close`, ""},
		{"phx_close before the reply to a leave fails the pushes in flight", clientJoined + `
			push a => send 1 2 a
			leave => leaving; send 1 3 phx_leave
			msg 1 1 phx_close => closed; answer a lost; answer leave ok; closed!`, ""},
		{"phx_error while leaving", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			msg 1 1 phx_error => closed; answer leave ok; closed!`, ""},
		{"leave times out", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			due leave => closed; answer leave timeout; closed!`, ""},
		{"lost connection while leaving", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			closed => closed; answer leave ok; closed!
			open`, ""},
		{"leave while offline", clientJoined + `
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
		{"other join_refs are dropped, and null and empty ones accepted, in any state", clientJoined + `
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
		{"phx_join and phx_leave from a server are events", clientJoined + `
			msg 1 - phx_join => event phx_join
			msg 1 - phx_leave => event phx_leave`, ""},
		{"a new connection rejoins immediately and resets the number of tries", clientJoined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			due rejoin => joining; params 2
			params 2 => send 2 2 phx_join
			msg 2 2 phx_reply error => errored; answer join error; rejoin in 2; error!
			closed
			open => joining; params 3
			params 3 => send 3 3 phx_join
			msg 3 3 phx_reply error => errored; answer join error; rejoin in 1; error!`, "rejoin"},
		{"rejoining can be given up", clientJoined + `
			msg 1 1 phx_error => errored; rejoin in 1; error!
			giveup => closed; closed!`, ""},

		{"a push is sent immediately if joined, otherwise after the rejoin", clientJoined + `
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
		{"no timeout after ok, no ok after the timeout", clientJoined + `
			push a => send 1 2 a
			msg 1 2 phx_reply ok => answer a ok
			due a
			push b => send 1 3 b
			due b => answer b timeout
			msg 1 3 phx_reply ok => drop`, ""},
		{"a lost connection fails the pushes in flight immediately", clientJoined + `
			push a => send 1 2 a
			push b => send 1 3 b
			closed => errored; answer a lost; answer b lost; error!`, ""},
		{"pushes that were not sent are sent after the rejoin, before later ones", clientJoined + `
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
		{"a push of PushNow that was not sent fails instead of waiting for the rejoin", clientJoined + `
			now a => send 1 2 a
			now b => send 1 3 b
			push c => send 1 4 c
			unsent b
			unsent c
			closed => errored; answer a lost; answer b offline; error!
			open => joining; params 2
			params 2 => send 5 5 phx_join
			msg 5 5 phx_reply ok => joined; send 5 6 c; answer join ok; joined!`, "c"},
		{"a push of PushNow that was not sent when the channel ends", clientJoined + `
			now a => send 1 2 a
			now b => send 1 3 b
			unsent b
			end => closed; answer a lost; answer b offline; closed!`, ""},
		{"PushNow does not delay a join after dropped records", clientJoined + `
			push a => send 1 2 a
			again
			now b => answer b offline
			msg 1 2 phx_reply ok => answer a ok; joining; params 2`, "join"},
		{"PushNow times out", clientJoined + `
			now a => send 1 2 a
			due a => answer a timeout
			msg 1 2 phx_reply ok => drop`, ""},
		{"a crash fails all pushes in flight, sent or not", clientJoined + `
			push a => send 1 2 a
			unsent a
			msg 1 1 phx_error => errored; answer a lost; rejoin in 1; error!
			msg - 2 phx_reply error => drop`, "rejoin"},
		{"a reply may have any status; a second one is dropped", clientJoined + `
			push a => send 1 2 a
			msg 1 2 phx_reply maybe => answer a maybe
			msg 1 2 phx_reply ok => drop`, ""},
		{"an error reply for an unknown topic has a null join_ref", clientJoined + `
			push a => send 1 2 a
			msg - 2 phx_reply error => answer a error`, ""},
		{"replies that no push waits for", clientJoined + `
			msg 1 1 phx_reply error => drop
			msg 1 99 phx_reply ok => drop
			msg 1 - phx_reply ok => drop
			msg 1 18446744073709551616 phx_reply ok => drop
			msg 1 '' phx_reply ok => drop`, ""},
		{"a push that cannot be encoded", clientJoined + `
			push a => send 1 2 a
			refused 2 => answer a payload
			refused 2`, ""},
		{"a join that cannot be encoded counts as a refusal", `
			open
			join => joining; params 1
			params 1 => send 1 1 phx_join
			refused 1 => errored; answer join payload; rejoin in 1; error!
			refused 1`, "rejoin"},
		{"cancel removes a buffered push and ignores the reply to a sent one", clientJoined + `
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
		{"the socket closes", clientJoined + `
			push a => send 1 2 a
			push b => send 1 3 b
			unsent b
			end => closed; answer a lost; answer b closed; closed!
			end`, ""},
		{"the socket closes while leaving", clientJoined + `
			leave => leaving; send 1 2 phx_leave
			end => closed; answer leave closed; closed!`, ""},
		{"after dropped records the channel joins again", clientJoined + `
			again => joining; params 2
			again
			params 2 => send 2 2 phx_join
			msg 1 1 phx_close => drop
			msg 2 2 phx_reply ok => joined; answer join ok; joined!`, ""},
		{"to join again waits for the pushes in flight, and later ones wait for the join", clientJoined + `
			push a => send 1 2 a
			push b => send 1 3 b
			again
			push c
			msg 1 2 phx_reply ok => answer a ok
			due b => answer b timeout; joining; params 2
			params 2 => send 4 4 phx_join
			msg 4 4 phx_reply ok => joined; send 4 5 c; answer join ok; joined!`, "c"},
		{"without a connection the next join is the rejoin", clientJoined + `
			push a => send 1 2 a
			again
			closed => errored; answer a lost; error!
			again
			open => joining; params 2`, "join"},
	})
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

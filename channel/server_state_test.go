package channel

import "testing"

// TestServerRules runs scripts in the language of TestClientRules. serverRig describes the inputs.
func TestServerRules(t *testing.T) {
	t.Parallel()
	// joined is the beginning of most scripts.
	const joined = `
		join => call join
		accepted => answering; subscribe; send ok
		answered => joined
		done => tell previous; answered!`
	for _, test := range []struct{ name, script, armed string }{
		{"a join that is accepted", joined, ""},
		{"a join that is rejected: nothing is called, and the queue is worked off", `
			join => call join
			refused => refused; tell reply; finish queue refused
			done => tell previous; answered!
			close => ended; unsubscribe; unsubscribe; cancel cause; drop queue -; end
			finished => ended!`, ""},
		{"a join that fails is reported", `
			join => call join
			failed => refused; report join crashed; tell reply; finish queue refused
			done => tell previous; answered!`, ""},
		{"a join whose reply cannot be encoded is terminated", `
			join => call join
			unanswerable => refused; report join crashed; tell reply; finish queue cause
			done => tell previous; answered!
			close => unsubscribe; terminate cause
			terminated => ended; unsubscribe; cancel cause; drop queue -; end
			finished => ended!`, ""},
		{"a join whose callback ends its goroutine", `
			join => call join
			exited => silent; report join crashed; tell crashed; cancel cause; drop queue cause; answered!
			done => tell previous
			close => ended; unsubscribe; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"a join whose reply panics is terminated", `
			join => call join
			exited accepted => silent; report join crashed; tell crashed; cancel cause; drop queue cause; answered!
			done => tell previous
			close => unsubscribe; terminate cause`, ""},

		{"the time of a join begins with its callback", `
			watched
			join => call join`, "join"},
		{"the time of a join whose callback runs begins at once", `
			join => call join
			watched
			watched`, "join"},
		{"a join in time", `
			watched
			join => call join
			accepted => answering; subscribe; send ok
			timeout
			answered => joined
			done => tell previous; answered!
			watched
			timeout`, ""},
		{"a join that was answered is not watched", joined + `
			watched`, ""},
		{"a join that takes too long, and is accepted later", `
			watched
			join => call join
			timeout => silent; report join given up; tell crashed; cancel timeout; drop queue timeout; answered!
			accepted
			answered
			done => tell previous
			close => unsubscribe; terminate cause
			terminated => ended; unsubscribe; cancel cause; drop queue -; end
			finished => ended!`, ""},
		{"a join that takes too long, and is refused later", `
			watched
			join => call join
			timeout => silent; report join given up; tell crashed; cancel timeout; drop queue timeout; answered!
			refused
			done => tell previous
			close => ended; unsubscribe; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"a join that takes too long, and fails later", `
			watched
			join => call join
			timeout => silent; report join given up; tell crashed; cancel timeout; drop queue timeout; answered!
			failed => report join failed after it was given up
			done => tell previous`, ""},
		{"a join that takes too long, and ends its goroutine later", `
			watched
			join => call join
			timeout => silent; report join given up; tell crashed; cancel timeout; drop queue timeout; answered!
			exited => report channel crashed; drop queue cause
			done => tell previous`, ""},

		{"leave: phx_close first, then Terminate", joined + `
			leaving
			leave => ending; unsubscribe; tell reply phx_close; terminate left
			terminated => ended; unsubscribe; cancel cause; drop queue -; end
			finished => ended!
			close`, ""},
		{"stop: the same without a reply", joined + `
			stop => ending; unsubscribe; tell phx_close; terminate stop
			terminated => ended; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"crash: Terminate first, then phx_error", joined + `
			crash => crashing; report channel crashed; terminate cause
			terminated => ended; unsubscribe; tell phx_error; cancel cause; drop queue -; end
			finished => ended!`, ""},
		{"a callback that ends its goroutine: phx_error at once", joined + `
			exited => silent; report channel crashed; tell phx_error; drop queue cause
			close => unsubscribe; terminate cause
			terminated => ended; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"the log lost records: phx_error with its reason at once", joined + `
			lost => silent; tell phx_error lost; cancel cause; drop queue cause
			lost
			close => unsubscribe; terminate cause
			terminated => ended; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"the connection ends: nothing is sent", joined + `
			close => ending; unsubscribe; terminate cause
			terminated => ended; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"nothing changes a channel that ends", joined + `
			stop => ending; unsubscribe; tell phx_close; terminate stop
			replaced
			killed
			crash
			leave
			stop
			terminated => ended; unsubscribe; cancel cause; drop queue -; end
			terminated
			replaced
			killed
			abandoned
			succeeded
			close`, ""},

		{"a mailbox that is full: phx_error at once, and the result of the callback is ignored", joined + `
			killed => silent; report channel killed; tell phx_error; cancel full; drop queue full
			killed
			stop
			crash
			leave
			close => unsubscribe; terminate cause
			terminated => ended; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"a mailbox that is full behind a join", `
			watched
			join => call join
			killed => silent; report channel killed; tell crashed; cancel full; drop queue full; answered!
			accepted
			done => tell previous`, ""},
		{"a mailbox that is full behind a join that waits for its turn", `
			watched
			killed => silent; report channel killed; tell crashed; cancel full; drop queue full; answered!
			join
			done => tell previous
			close => ended; unsubscribe; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"a mailbox that is full while the join is answered: the answer comes first", `
			join => call join
			accepted => answering; subscribe; send ok
			killed
			killed
			answered => joined
			killed
			done => silent; tell previous; answered!; report channel killed; tell phx_error; cancel full; drop queue full`, ""},
		{"a mailbox that is full after the join was refused", `
			join => call join
			refused => refused; tell reply; finish queue refused
			killed
			done => tell previous; answered!`, ""},

		{"joined again: silent, and the new channel sends phx_close once", joined + `
			replaced => silent; drop queue replaced; cancel replaced
			succeeded => hand over
			succeeded
			close => unsubscribe; terminate cause
			terminated => ended; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"joined again while a leave is queued: the leave is answered", joined + `
			leaving
			replaced
			leave => ending; unsubscribe; tell reply phx_close; terminate left
			succeeded`, ""},
		{"joined again while the join is undecided: it is answered first, and not subscribed", `
			join => call join
			replaced => finish queue replaced
			succeeded
			accepted => answering; send ok
			answered => silent
			done => tell previous; answered!
			succeeded => hand over
			close => unsubscribe; terminate cause`, ""},
		{"joined again while the join is undecided, which is refused then", `
			join => call join
			replaced => finish queue replaced
			refused => refused; tell reply; finish queue refused
			done => tell previous; answered!
			succeeded`, ""},
		{"joined again while the join is answered", `
			join => call join
			accepted => answering; subscribe; send ok
			replaced => finish queue replaced
			answered => silent
			done => tell previous; answered!
			succeeded => hand over`, ""},
		{"joined again, and the callback does not return", joined + `
			replaced => silent; drop queue replaced; cancel replaced
			abandoned => report channel given up, whose callback does not return; cancel replaced; drop queue replaced
			succeeded => hand over
			close => unsubscribe; terminate cause`, ""},
		{"joined again, and the join callback does not return", `
			watched
			join => call join
			replaced => finish queue replaced
			abandoned => silent; report join given up; tell crashed; cancel replaced; drop queue replaced; answered!
			succeeded
			accepted
			done => tell previous
			close => unsubscribe; terminate cause`, ""},
		{"joined again, and Terminate after a crash does not return: phx_error is not sent any more", joined + `
			crash => crashing; report channel crashed; terminate cause
			replaced
			abandoned => silent; report channel given up, whose callback does not return; cancel replaced; drop queue replaced
			terminated => ended; unsubscribe; cancel cause; drop queue -; end`, ""},
		{"abandoned while the join is answered: it goes on by itself", `
			join => call join
			replaced => finish queue replaced
			accepted => answering; send ok
			abandoned
			answered => silent`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newServerRig()
			playScript(t, test.script, r.do, r.armed, test.armed)
		})
	}
}

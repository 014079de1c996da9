package channel

// The rules of a server's channel: when a join is answered, what ends a channel, and what is sent
// and called then. They are a step function without clock, lock, network or goroutine, as those of
// a client's channel are. A serverInput is what happens; the serverOutputs are what must be done
// about it, in order. server_driver.go carries them out.
//
// The events of a joined channel are not inputs: they change nothing here.

// serverStatus is the stage that a server's channel has reached. The order matters: from
// serverRefused on, the channel sends nothing.
type serverStatus uint8

const (
	serverJoining   serverStatus = iota // the join waits for its turn, or its callback runs
	serverAnswering                     // the join was accepted; it is being subscribed and answered
	serverJoined
	serverEnding   // ends normally: its Terminate runs, and may still push
	serverCrashing // ends because a callback failed: the same, and phx_error follows
	serverRefused  // the join was answered with an error; what is queued behind it is answered, too
	serverSilent   // ended from outside; a callback may still run
	serverEnded    // only the OnEnd functions may still run
)

func (s serverStatus) String() string {
	return [...]string{"joining", "answering", "joined", "ending", "crashing", "refused", "silent", "ended"}[s]
}

// serverState is all that the rules depend on.
type serverState struct {
	status   serverStatus
	called   bool // the join callback was called
	watched  bool // the join may time out
	owed     bool // the mailbox is about to answer the join, or has just done so: serverInJoinDone is due
	accepted bool // Terminate is due
	joined   bool // the join got its positive reply
	leaving  bool // the client sent a leave
	replaced bool // the client joined again: the new channel sends this one's phx_close, if it was joined
	killed   bool // to be killed as soon as the join was answered
	givenUp  bool // the join was answered although its callback had not returned
}

// isBeforeJoin reports whether the join has not been answered.
func (s serverStatus) isBeforeJoin() bool { return s <= serverAnswering }

// isOpen reports whether the channel may send to its client.
func (s serverStatus) isOpen() bool { return s >= serverJoined && s <= serverCrashing }

// isMute reports whether nothing that the channel sends or is delivered may reach its client.
func (s serverStatus) isMute() bool { return s >= serverRefused }

// serverMachine is a step in progress.
type serverMachine struct {
	serverState
	out *serverOutputs
}

// serverStep returns the state that follows s, and adds what must be done to out, which is empty.
//
// A serverOutCallJoin, serverOutTerminate or serverOutEnd calls the user's code, which may end the
// goroutine. Therefore it is the last output of its step, and only inputs of the callbacks' own
// goroutine have such an output.
func serverStep(s serverState, in serverInput, out *serverOutputs) serverState {
	m := serverMachine{s, out}
	if in.accepted {
		m.accepted = true
	}
	switch in.kind {
	case serverInJoin:
		m.join()
	case serverInAccepted:
		m.accept(in)
	case serverInAnswered:
		m.answered()
	case serverInRefused:
		m.refuse(in)
	case serverInJoinDone:
		m.joinDone()
	case serverInWatched:
		m.watch()
	case serverInTimedOut:
		if m.status == serverJoining {
			m.giveUp(reportJoinGivenUp, in.err)
		}
	case serverInLeaving:
		m.leaving = true
	case serverInReplaced:
		m.replace()
	case serverInAbandoned:
		m.abandon()
	case serverInSucceeded:
		if m.replaced && m.joined {
			m.replaced = false
			m.do(serverOutput{kind: serverOutHandOver})
		}
	case serverInRevoked:
		m.revoke(in.err)
	case serverInKilled:
		m.kill()
	case serverInLeave, serverInStopped:
		m.stop(in)
	case serverInCrashed:
		m.crash(in.err)
	case serverInExited:
		m.exited(in.err)
	case serverInLost:
		m.lose(in.err)
	case serverInClose:
		if in.removed && m.status == serverJoined {
			m.stop(in)
		} else {
			m.closed(in.err)
		}
	case serverInTerminated:
		m.finish(in.err)
	case serverInFinished:
		m.do(serverOutput{kind: serverOutEnded})
	}
	return m.serverState
}

func (m *serverMachine) do(o serverOutput) { m.out.add(o) }

// join calls the join callback, unless the join was given up while it waited for its turn.
func (m *serverMachine) join() {
	if m.status != serverJoining {
		return
	}
	m.called = true
	if m.watched {
		m.do(serverOutput{kind: serverOutArm})
	}
	m.do(serverOutput{kind: serverOutCallJoin})
}

// watch lets the join time out. Its time begins when its callback is called, not while it waits for
// the channel that it replaces.
func (m *serverMachine) watch() {
	if m.status != serverJoining || m.watched {
		return
	}
	m.watched = true
	if m.called {
		m.do(serverOutput{kind: serverOutArm})
	}
}

// accept subscribes and answers. The driver feeds serverInAnswered when this is done, and delivers
// no broadcast before: nothing overtakes the answer, and nothing that is broadcast after it is
// missed.
func (m *serverMachine) accept(in serverInput) {
	if m.status != serverJoining {
		return
	}
	m.status, m.owed = serverAnswering, true
	if !m.replaced {
		m.do(serverOutput{kind: serverOutSubscribe})
	}
	m.do(serverOutput{kind: serverOutReply, frame: in.frame})
}

func (m *serverMachine) answered() {
	if m.status != serverAnswering {
		return
	}
	m.joined = true
	m.status = serverJoined
	if m.replaced {
		m.status = serverSilent
	}
}

// refuse answers a join that failed. The channel ends when the mailbox has dispatched what is
// queued behind the join.
func (m *serverMachine) refuse(in serverInput) {
	if m.status != serverJoining {
		if in.crashed {
			m.report(reportJoinFailedLate, in.err)
		}
		return
	}
	m.status, m.owed = serverRefused, true
	if in.crashed {
		m.report(reportJoinCrashed, in.err)
	}
	m.do(serverOutput{kind: serverOutTell, frame: in.frame})
	reason := errRefused
	if m.accepted {
		reason = in.err
	}
	m.do(serverOutput{kind: serverOutClose, keep: true, err: reason})
}

// joinDone does what is left after the answer: the end of the channel that this one replaced is
// sent, and the carrier is notified.
func (m *serverMachine) joinDone() {
	if m.watched {
		m.do(serverOutput{kind: serverOutDisarm})
	}
	m.do(serverOutput{kind: serverOutTellPrevious})
	if m.owed {
		m.owed = false
		m.do(serverOutput{kind: serverOutAnswered})
	}
	if m.killed {
		m.killed = false
		m.kill()
	}
}

// giveUp answers a join whose callback has not returned or never will. The client receives the
// reply "join crashed", and messages queued behind the join get error replies. The result of the
// callback will be ignored, but a channel that it accepts is terminated.
func (m *serverMachine) giveUp(what serverReport, err error) {
	m.status, m.givenUp = serverSilent, true
	if m.watched {
		m.do(serverOutput{kind: serverOutDisarm})
	}
	m.report(what, err)
	m.do(serverOutput{kind: serverOutTell, frames: serverFrameCrashedJoin})
	m.silence(err)
	m.do(serverOutput{kind: serverOutAnswered})
}

// silence ends the work of the mailbox. The channel ends when the callback that runs has returned.
func (m *serverMachine) silence(err error) {
	m.do(serverOutput{kind: serverOutCancel, err: err})
	m.do(serverOutput{kind: serverOutClose, err: err})
}

// replace ends the channel because the topic is joined again. A channel that ends already goes on
// as if it were not replaced. A joined one is silenced, and the new channel sends its phx_close
// after its own answer. A join that is still undecided is answered first, also what is queued
// behind it if it is refused.
func (m *serverMachine) replace() {
	if m.leaving {
		return
	}
	switch m.status {
	case serverJoining, serverAnswering:
		m.replaced = true
		m.do(serverOutput{kind: serverOutClose, keep: true, err: ErrReplaced})
	case serverJoined:
		m.replaced = true
		m.status = serverSilent
		m.do(serverOutput{kind: serverOutClose, err: ErrReplaced})
		m.do(serverOutput{kind: serverOutCancel, err: ErrReplaced})
	}
}

// abandon silences a channel whose callback does not return although its topic was joined again.
func (m *serverMachine) abandon() {
	switch m.status {
	case serverJoining:
		m.giveUp(reportJoinGivenUp, ErrReplaced)
	case serverAnswering, serverEnded: // no callback runs: it is about to end, or has ended
	default:
		m.status = serverSilent
		m.report(reportAbandoned, ErrReplaced)
		m.silence(ErrReplaced)
	}
}

// kill ends the channel at once, as a crash: its client joins again.
func (m *serverMachine) kill() {
	switch {
	case m.status == serverJoining:
		m.giveUp(reportKilled, ErrFull)
	case m.status == serverAnswering, m.status == serverJoined && m.owed:
		m.killed = true
	case m.status == serverJoined:
		m.status = serverSilent
		m.report(reportKilled, ErrFull)
		m.do(serverOutput{kind: serverOutTell, frames: serverFrameError})
		m.silence(ErrFull)
	}
}

// revoke ends the channel at once, and normally. A join that is not decided gets no answer: if its
// callback was not called yet, it never is.
func (m *serverMachine) revoke(err error) {
	switch {
	case m.status == serverJoining:
		m.status, m.givenUp = serverSilent, true
		if m.watched {
			m.do(serverOutput{kind: serverOutDisarm})
		}
		m.do(serverOutput{kind: serverOutTell})
		m.silence(err)
		m.do(serverOutput{kind: serverOutAnswered})
	case m.status == serverJoined && !m.owed:
		m.status = serverSilent
		m.do(serverOutput{kind: serverOutTell, frames: serverFrameClose, err: err})
		m.silence(err)
	}
}

// stop ends the channel normally: phx_close is sent first, then Terminate is called.
func (m *serverMachine) stop(in serverInput) {
	if m.status != serverJoined {
		return
	}
	m.status = serverEnding
	m.do(serverOutput{kind: serverOutUnsubscribe})
	m.do(serverOutput{kind: serverOutTell, frame: in.frame, frames: serverFrameClose, err: in.err})
	m.terminate(in.err)
}

// crash ends the channel after a callback failed: Terminate is called first, then phx_error is
// sent. A channel that is silent already is ended by what silenced it.
func (m *serverMachine) crash(err error) {
	if m.status != serverJoined {
		return
	}
	m.status = serverCrashing
	m.report(reportCrashed, err)
	m.terminate(err)
}

// exited ends the channel after a callback ended its goroutine, or its results panicked. This is a
// crash, but Terminate runs later and on another goroutine, so phx_error is not held back.
func (m *serverMachine) exited(err error) {
	switch m.status {
	case serverJoining:
		m.giveUp(reportJoinCrashed, err)
	case serverJoined:
		m.status = serverSilent
		m.report(reportCrashed, err)
		m.do(serverOutput{kind: serverOutTell, frames: serverFrameError})
		m.do(serverOutput{kind: serverOutClose, err: err})
	default:
		m.report(reportCrashed, err)
		m.do(serverOutput{kind: serverOutClose, err: err})
	}
}

// lose ends a joined channel because the log of its topic lost records: its client joins again.
func (m *serverMachine) lose(err error) {
	if m.status != serverJoined {
		return
	}
	m.status = serverSilent
	m.do(serverOutput{kind: serverOutTell, frames: serverFrameLost})
	m.silence(err)
}

// closed ends the channel for the reason that its mailbox was closed.
func (m *serverMachine) closed(reason error) {
	switch m.status {
	case serverEnded:
		return
	case serverJoined:
		m.status = serverEnding
	}
	m.do(serverOutput{kind: serverOutUnsubscribe})
	m.terminate(reason)
}

// terminate calls Terminate, once, if the join was accepted.
func (m *serverMachine) terminate(reason error) {
	if m.accepted {
		m.accepted = false
		m.do(serverOutput{kind: serverOutTerminate, err: reason})
		return
	}
	m.finish(reason)
}

// finish ends the channel. It cancels the context before the OnEnd functions run, because presence
// reads the cause of the context in one of them.
func (m *serverMachine) finish(reason error) {
	if m.status == serverEnded {
		return
	}
	tell := m.status == serverCrashing
	m.status = serverEnded
	m.do(serverOutput{kind: serverOutUnsubscribe}) // also what Terminate subscribed to
	if tell {
		m.do(serverOutput{kind: serverOutTell, frames: serverFrameError})
	}
	m.do(serverOutput{kind: serverOutCancel, err: reason})
	m.do(serverOutput{kind: serverOutClose})
	m.do(serverOutput{kind: serverOutEnd})
}

func (m *serverMachine) report(what serverReport, err error) {
	m.do(serverOutput{kind: serverOutReport, report: what, err: err})
}

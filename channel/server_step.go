package channel

import "bennu.example/serializer"

// serverInput is one event in the life of a server's channel.
type serverInput struct {
	kind     serverInputKind
	frame    *serializer.Frame // serverInAccepted, serverInRefused, serverInLeave: the reply to send
	err      error             // what failed, or why the channel ends
	crashed  bool              // serverInRefused: the callback failed; it did not reject
	accepted bool              // the join callback returned nil, so Terminate is due
	removed  bool              // serverInClose: the member was removed
}

type serverInputKind uint8

// Only the goroutine of the callbacks feeds the inputs of the first group. Any goroutine may feed
// those of the second.
const (
	serverInJoin       serverInputKind = iota // the mailbox dispatches the join
	serverInAccepted                          // the join callback accepted
	serverInAnswered                          // the positive reply was sent
	serverInRefused                           // the join callback rejected or failed, or its reply cannot be encoded
	serverInJoinDone                          // the mailbox is done with the join, whatever its outcome
	serverInLeave                             // the mailbox dispatches the client's leave
	serverInStopped                           // a callback returned ErrStop
	serverInCrashed                           // a callback failed
	serverInExited                            // a callback ended its goroutine, or its results panicked
	serverInLost                              // the topic's log lost records that the client needs
	serverInClose                             // the mailbox is closed, and dispatches its last item
	serverInTerminated                        // Terminate returned, panicked or ended its goroutine
	serverInFinished                          // the OnEnd functions were called

	serverInWatched   // the join may now time out
	serverInTimedOut  // the join's timeout expired
	serverInLeaving   // the client sent a leave, which is about to be enqueued
	serverInReplaced  // the client joined the topic again
	serverInAbandoned // the next join of the topic does not wait for this channel any longer
	serverInSucceeded // the next join of the topic was answered
	serverInRevoked   // the client may not be here any more
	serverInKilled    // a message found no room in the mailbox
)

// serverOutput is one action that a step requires.
type serverOutput struct {
	kind   serverOutputKind
	frames serverFrames      // serverOutTell
	keep   bool              // serverOutClose: what is queued is still dispatched
	report serverReport      // serverOutReport
	frame  *serializer.Frame // serverOutReply; serverOutTell: sent before frames
	err    error             // serverOutReport, …Cancel, …Close, …Terminate, and …Tell of serverFrameClose

	claimed *serverClaim // serverOutTell of serverFrameCrashedJoin, serverOutTellPrevious; set by Channel.step
}

// serverOutputs are the outputs of one step, in order. No step has more than there is room for.
type serverOutputs struct {
	n    int
	list [7]serverOutput
}

// all returns the outputs.
func (o *serverOutputs) all() []serverOutput { return o.list[:o.n] }

func (o *serverOutputs) add(out serverOutput) {
	o.list[o.n] = out
	o.n++
}

type serverOutputKind uint8

const (
	serverOutArm          serverOutputKind = iota // start the join's timeout
	serverOutDisarm                               // stop it
	serverOutCallJoin                             // call the join callback; its result follows as an input
	serverOutSubscribe                            // subscribe to the topic
	serverOutUnsubscribe                          // cancel all subscriptions
	serverOutReply                                // send the positive reply to the join
	serverOutTell                                 // remove the channel from its carrier, and send the frames of its end
	serverOutTellPrevious                         // send the phx_close of the channel before, if that is due
	serverOutHandOver                             // let the caller send this channel's phx_close
	serverOutAnswered                             // notify the carrier that the join was answered
	serverOutReport                               // report a failure to the carrier
	serverOutCancel                               // cancel the context
	serverOutClose                                // close the mailbox; with err: serverInClose follows
	serverOutTerminate                            // call Terminate; serverInTerminated follows
	serverOutEnd                                  // call the OnEnd functions; serverInFinished follows
	serverOutEnded                                // notify the carrier that the channel has ended
)

// serverFrames is a set of the frames that may end a channel. They are sent in this order.
type serverFrames uint8

const (
	serverFrameCrashedJoin serverFrames = 1 << iota // the error reply to the join, and a serverClaim
	serverFrameClose                                // phx_close
	serverFrameError                                // phx_error
	serverFrameLost                                 // phx_error, with the reason that records were lost
)

// serverReport says what failed.
type serverReport uint8

const (
	reportJoinCrashed    serverReport = iota
	reportJoinFailedLate              // only logged: its client was answered long ago
	reportJoinGivenUp
	reportCrashed
	reportKilled
	reportAbandoned
	reportTerminateCrashed
	reportEndCrashed
)

func (r serverReport) String() string {
	return [...]string{
		"join crashed", "join failed after it was given up", "join given up",
		"channel crashed", "channel killed", "channel given up, whose callback does not return",
		"terminate crashed", "callback at the channel's end crashed",
	}[r]
}

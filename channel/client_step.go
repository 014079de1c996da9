package channel

import (
	"strconv"

	"bennu.example/internal/promise"
	"bennu.example/serializer"
)

// clientInput is one thing that happens.
type clientInput struct {
	kind    clientInputKind
	push    *clientPush         // inJoin, inLeave, inPush, inCancel, inPushTimeout
	msg     *serializer.Message // inMessage
	attempt uint64              // inParams
	payload serializer.Payload  // inParams
	ref     uint64              // inRefused
	err     error               // inParams, inClosed, inRefused, inEnd
}

type clientInputKind uint8

const (
	inJoin         clientInputKind = iota // Join was called
	inParams                              // the join's params are there, or failed
	inOpened                              // the socket is connected
	inClosed                              // the socket lost its connection, or made none
	inMessage                             // a message of the topic came
	inPush                                // Push was called
	inCancel                              // a push is withdrawn
	inLeave                               // Leave was called
	inJoinTimeout                         // timers
	inRejoin                              //
	inLeaveTimeout                        //
	inPushTimeout                         //
	inRefused                             // a message could not be encoded
	inGiveUp                              // there is to be no rejoin
	inFree                                // the channel that was leaving the topic is closed
	inEnd                                 // the socket is closed for good
)

// clientOutput is one thing to do.
type clientOutput struct {
	kind    clientOutputKind
	timer   clientTimer         // outArm, outDisarm
	push    *clientPush         // outSend of a push, outAnswer, outArm of a push
	ref     uint64              // outSend
	joinRef uint64              // outSend
	event   string              // outSend
	payload serializer.Payload  // outSend of a join, outJoined
	answer  promise.Result      // outAnswer
	attempt uint64              // outParams
	tries   int                 // outArm of timerRejoin, from 1
	msg     *serializer.Message // outDeliver, outDrop
	status  ClientState         // outState
	err     error               // outState, outErrored, outClosed
	why     string              // outDrop
}

type clientOutputKind uint8

const (
	outParams   clientOutputKind = iota // find the params of a join
	outNoParams                         // they are not wanted any more
	outSend                             // send a message
	outAnswer                           // answer a push, and stop its timer
	outDeliver                          // give a message to who listens
	outDrop                             // log a message that nobody gets
	outArm                              // start a timer, also one that runs
	outDisarm                           // stop a timer
	outState                            // the state changed
	outJoined                           // tell of a join
	outErrored                          // tell of an error
	outClosed                           // tell of the end, and let go of the topic
)

type clientTimer uint8

const (
	timerJoin   clientTimer = iota // the join's timeout
	timerRejoin                    // until the next join
	timerLeave                     // the leave's timeout
	timerPush                      // a push's timeout
)

// isNullClientRef takes the empty string for null, as phoenix.js does: that is what a binary frame says for null.
func isNullClientRef(r serializer.Ref) bool { return r == "" || r == serializer.EmptyRef }

// clientRef writes the ref n; 0 is null.
func clientRef(n uint64) serializer.Ref {
	if n == 0 {
		return ""
	}
	var buf [22]byte
	b := strconv.AppendUint(append(buf[:0], '"'), n, 10)
	return serializer.Ref(append(b, '"'))
}

// parseClientRef reads a ref that this client may have made: digits in quotes.
func parseClientRef(r serializer.Ref) (n uint64, ok bool) {
	if len(r) < 3 || len(r) > 21 || r[0] != '"' || r[len(r)-1] != '"' || r[1] == '0' {
		return 0, false
	}
	for _, c := range []byte(r[1 : len(r)-1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

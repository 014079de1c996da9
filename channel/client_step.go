package channel

import (
	"strconv"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/promise"
	"bennu.example/serializer"
)

// clientInput is an input of clientStep.
type clientInput struct {
	kind    clientInputKind
	push    *clientPush         // inJoin, inLeave, inPush, inPushNow, inCancel, inPushTimeout
	msg     *serializer.Message // inMessage
	attempt uint64              // inParams
	payload serializer.Payload  // inParams
	ref     uint64              // inRefused
	err     error               // inParams, inClosed, inRefused, inEnd
	auth    clientlink.Auth     // inAuth

	isCongested bool // inPushNow: too much waits for the network
}

type clientInputKind uint8

const (
	inJoin        clientInputKind = iota // Join was called
	inParams                             // the params of a join were evaluated, or their function failed
	inOpened                             // the socket is connected
	inClosed                             // the socket lost its connection or failed to connect
	inMessage                            // a message for the topic was received
	inPush                               // Push was called
	inPushNow                            // PushNow was called
	inCancel                             // a push was canceled
	inLeave                              // Leave was called
	inJoinTimeout                        // this and the next three: a timer fired
	inRejoin
	inLeaveTimeout
	inPushTimeout
	inRefused    // a message could not be encoded
	inGiveUp     // the socket does not want the channel to rejoin
	inFree       // the channel that was leaving the topic is closed
	inEnd        // the socket is closed permanently
	inAuth       // the socket's authentication changed
	inRejoinCall // Rejoin was called
	inAgain      // records were dropped: the channel joins again to receive them
)

// clientOutput is an output of clientStep, which client_driver.go performs.
type clientOutput struct {
	kind    clientOutputKind
	timer   clientTimer         // outArm, outDisarm
	push    *clientPush         // outSend of a push, outAnswer, outArm of a push; the join: outState and outClosed
	ref     uint64              // outSend
	joinRef uint64              // outSend
	event   string              // outSend
	payload serializer.Payload  // outSend of a join, outJoined, outState of StateJoined
	answer  promise.Result      // outAnswer
	attempt uint64              // outParams
	tries   int                 // outArm of timerRejoin, from 1; zero means clientJoinPause
	msg     *serializer.Message // outEvent, outDrop
	status  ClientState         // outState
	err     error               // outState, outErrored, outClosed
	why     string              // outDrop
	early   bool                // outEvent: the channel is not joined now
}

type clientOutputKind uint8

const (
	outParams   clientOutputKind = iota // put a join into the queue; its params are evaluated there
	outNoParams                         // take the join out of the queue
	outSend                             // send a message
	outAnswer                           // answer a push, and stop its timer
	outEvent                            // enqueue an event for the listeners
	outDrop                             // log a dropped message
	outArm                              // start or restart a timer
	outDisarm                           // stop a timer
	outState                            // the state changed
	outJoined                           // notify of a join
	outErrored                          // notify of an error
	outClosed                           // notify of the end of a life
	outCanceled                         // a life has ended that had not begun
	outDetach                           // release the topic
)

type clientTimer uint8

const (
	timerJoin   clientTimer = iota // the join's timeout
	timerRejoin                    // until the next join, or until the join is sent again
	timerLeave                     // the leave's timeout
	timerPush                      // a push's timeout
)

// isNullClientRef reports whether r is null or empty. phoenix.js treats both alike, because a
// binary frame has an empty ref for null.
func isNullClientRef(r serializer.Ref) bool { return r == "" || r == serializer.EmptyRef }

// clientRef returns the ref with the number n. Zero means null.
func clientRef(n uint64) serializer.Ref {
	if n == 0 {
		return ""
	}
	var buf [22]byte
	b := strconv.AppendUint(append(buf[:0], '"'), n, 10)
	return serializer.Ref(append(b, '"'))
}

// parseClientRef returns the number of a ref from clientRef.
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

// Package longpoll carries frames over plain HTTP requests, at either end, as Phoenix's long poll
// does.
//
// A [Server] answers requests and drives one transport.Session for each client. With [Peers], any
// node of a cluster can answer a request. [Dial] opens a client's session.
package longpoll

// Statuses of long poll. They are in the body of an answer, whose HTTP status is 200.
const (
	statusOK        = 200
	statusEmpty     = 204 // no message arrived within the window
	statusForbidden = 403
	statusTimeout   = 408 // a message of the POST was not handled in time, or was malformed
	statusGone      = 410 // no such session; the answer to a GET has the token of a new one
)

// headerToken is the header in which a client sends the token of its session.
const headerToken = "X-Phoenix-Longpoll-Token"

// typeBatch is the content type of a POST that has one message in each line.
const typeBatch = "application/x-ndjson"

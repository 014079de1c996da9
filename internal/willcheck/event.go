// Package willcheck decides whether a recorded run of a cluster with last wills kept their
// guarantees: a will whose client never came back runs at least once in time, also after the end of
// its node, and none runs once a newer connection of its client has joined the topic.
//
// Nodes, clients and observers write what they do and see as events, with the time of one clock,
// since they run on one machine. Nodes may be killed at any moment, so each writes its events to a
// file of its own at once. The package shares no code with the packages that it judges.
package willcheck

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Kind says what an event is. An event of something that begins is written before it does, and one
// of something that is done is written after it.
type Kind string

// The events of a node.
const (
	Renewed  Kind = "renewed"  // it has requested a lease, which it was given
	Arriving Kind = "arriving" // a connection joins a topic
	Setting  Kind = "setting"  // it stores a will
	Set      Kind = "set"      // the store has the will
	Ran      Kind = "ran"      // a will is about to be broadcast
)

// The events of a client.
const (
	Joined   Kind = "joined"   // it has received the reply to a join
	Acked    Kind = "acked"    // it has received the reply to a will
	Dropping Kind = "dropping" // it deletes wills: see Event.selects
	Dropped  Kind = "dropped"  // it has received the reply
	Ending   Kind = "ending"   // it ends a connection
	Ended    Kind = "ended"    // its connection has ended
	Gone     Kind = "gone"     // all its connections have ended, and it will not come back
)

// Other events.
const (
	Received Kind = "received" // an observer has received the broadcast of a will
	Killed   Kind = "killed"   // a node is killed
	Broken   Kind = "broken"   // the store is about to fail
	Mended   Kind = "mended"   // the store works again
	Finished Kind = "finished" // the end of the run
)

// Event is one entry of a history. Which fields it has depends on its kind.
type Event struct {
	At   int64 // nanoseconds since 1970; set by the Recorder if it is zero
	Kind Kind
	By   string `json:",omitempty"` // the observer
	Node string `json:",omitempty"` // the process
	Will string `json:",omitempty"` // its ID
	Mark string `json:",omitempty"` // of Setting and Received: the will's payload has it

	Connection string        `json:",omitempty"`
	Subject    string        `json:",omitempty"`
	Client     string        `json:",omitempty"`
	Topic      string        `json:",omitempty"`
	Order      uint64        `json:",omitempty"`
	After      time.Duration `json:",omitempty"` // of Setting
}

// selects reports whether e, a Dropping or Dropped, is about a will. Its fields that are not empty
// are those of the will, which was set before, or was about to be.
func (e *Event) selects(w *record) bool {
	return w.began <= e.At+int64(lag) && (e.Will == "" || e.Will == w.id) &&
		(e.Connection == "" || e.Connection == w.connection) && (e.Topic == "" || e.Topic == w.topic) &&
		(e.Client == "" || e.Client == w.client) && (e.Subject == "" || e.Subject == w.subject)
}

// Recorder writes events. Its methods may be called from any goroutine.
type Recorder struct {
	mu  sync.Mutex
	to  io.Writer
	err error
	now func() time.Time
}

// NewRecorder returns a Recorder that writes each event at once.
func NewRecorder(to io.Writer) *Recorder { return &Recorder{to: to, now: time.Now} }

// Add writes an event, with the present time if it has none.
func (r *Recorder) Add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.At == 0 {
		e.At = r.now().UnixNano()
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.to.Write(append(line, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
}

// Err returns the first error.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Read returns the events of files. The last line of a file may be incomplete, because its writer
// was killed.
func Read(files ...string) (all []Event, err error) {
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		complete := data[:bytes.LastIndexByte(data, '\n')+1]
		lines := bufio.NewScanner(bytes.NewReader(complete))
		for lines.Scan() {
			var e Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, e)
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}

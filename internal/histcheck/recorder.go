package histcheck

import (
	"sync"
	"time"
)

// Recorder collects the events of one topic in real-time order. Its methods are safe for concurrent
// use. A method that names what is about to happen ("Append", "Join") is called before it happens;
// one that names a result is called after it.
type Recorder struct {
	mu     sync.Mutex
	events []event
}

type kind int

const (
	appendBegan kind = iota
	appendOK
	appendFailed
	appendUncertain
	joinSent
	joinReplied
	received
	moved
	cut
	fault
	lost
	stored
)

// event is one entry of a recording. Which fields are set depends on the kind.
type event struct {
	kind   kind
	client string // a client, or the sender of an append
	id     string // of a record
	pos    string
	skip   string // the client that does not receive the record
	reply  Reply
	since  string // of joinSent
	asked  bool
	why    string
	time   time.Time // of stored
}

// Len returns the number of events so far.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

func (r *Recorder) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// Append records that sender begins to append the record id. The client named skip, if any, need
// not receive it: it is the sender of a broadcast that leaves out its sender.
func (r *Recorder) Append(sender, id, skip string) {
	r.add(event{kind: appendBegan, client: sender, id: id, skip: skip})
}

// Appended records that the append of id succeeded. An empty pos means that it is not known.
func (r *Recorder) Appended(id, pos string) { r.add(event{kind: appendOK, id: id, pos: pos}) }

// Failed records that the append of id failed, with an error that promises that there is no record.
func (r *Recorder) Failed(id string) { r.add(event{kind: appendFailed, id: id}) }

// Uncertain records that the append of id ended without telling whether there is a record.
func (r *Recorder) Uncertain(id string) { r.add(event{kind: appendUncertain, id: id}) }

// Join records that client sends a join with the position since, which is empty if it has none.
// A client that did not ask for history receives no positions.
func (r *Recorder) Join(client, since string, asked bool) {
	r.add(event{kind: joinSent, client: client, since: since, asked: asked})
}

// Reply is the answer to a successful join.
type Reply struct {
	Pos       string // empty for a client that did not ask
	Recovered bool
	Why       string // of a reply without recovery

	// Loaded says that the join callback loaded Snapshot, the ids of all records that the
	// application has stored, each before its append began.
	Loaded   bool
	Snapshot []string

	// Reach is the time that the join may read back to. The zero Time means no bound. Began is what
	// Len returned before the server looked for the position at which the join continues.
	Reach time.Time
	Began int
}

// Joined records the reply to the client's last join.
func (r *Recorder) Joined(client string, reply Reply) {
	r.add(event{kind: joinReplied, client: client, reply: reply})
}

// Received records a frame with the record id. pos is empty for a client that did not ask.
func (r *Recorder) Received(client, pos, id string) {
	r.add(event{kind: received, client: client, pos: pos, id: id})
}

// Moved records an event that moves the client's position over records that it does not receive.
func (r *Recorder) Moved(client, pos string) { r.add(event{kind: moved, client: client, pos: pos}) }

// Stored records that the log stored the record id at this time of its clock. It may be called at
// any time before Check.
func (r *Recorder) Stored(id string, at time.Time) { r.add(event{kind: stored, id: id, time: at}) }

// Cut records that the client's channel ended: it left, was ended by the server, or lost its
// connection.
func (r *Recorder) Cut(client string) { r.add(event{kind: cut, client: client}) }

// Fault records that from now on a reply may refuse recovery with this reason to clients whose
// position is older.
func (r *Recorder) Fault(why string) { r.add(event{kind: fault, why: why}) }

// Lost records that the log has lost the record id at pos, after its append or while it was under
// way.
// Clients may have received it. None of them may receive a record that was not lost after it,
// without a reply to another join.
func (r *Recorder) Lost(id, pos string) { r.add(event{kind: lost, id: id, pos: pos}) }

package socket

import (
	"fmt"
	"net/http"
	"sync"

	"bennu.example/push"
	"bennu.example/transport/longpoll"
)

// maxRevocations is how many revocations a handler remembers.
const maxRevocations = 1024

var (
	errRevoked         = push.Reject("denied")
	errManyRevocations = fmt.Errorf("socket: too many revocations during a verification: %w",
		longpoll.StatusError(http.StatusServiceUnavailable))
)

// revocations are the last calls of Revoke on all nodes. While Verify and Connect run, the handler
// does not know whose connection it will be, so it is not subscribed to the ID. It looks here
// afterwards. The lock is taken last.
type revocations struct {
	mu   sync.Mutex
	n    uint64 // of all revocations
	last []idRevocation
}

type idRevocation struct{ id, reason string }

func (r *revocations) add(id, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := (idRevocation{id, reason}); len(r.last) < maxRevocations {
		r.last = append(r.last, v)
	} else {
		r.last[r.n%maxRevocations] = v
	}
	r.n++
}

// mark returns the present, for since.
func (r *revocations) mark() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// since returns the reason of a revocation of an ID since a mark. Nil means that there was none. It
// fails if it does not know.
func (r *revocations) since(mark uint64, id string) (reason *string, err error) {
	if id == "" {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n-mark > maxRevocations {
		return nil, errManyRevocations
	}
	for i := mark; i < r.n; i++ {
		if v := &r.last[i%maxRevocations]; v.id == id {
			text := v.reason // the entry will be replaced
			return &text, nil
		}
	}
	return nil, nil
}

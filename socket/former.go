package socket

import (
	"slices"

	"bennu.example/internal/channelhost"
)

// maxFormer bounds the former grants of a session whose channels have not handled their end. A
// client that logs out beyond it is answered errUnavailable.
const maxFormer = 8

// formerGrant is the identity of a client that has logged out. Channels that have not handled the
// change yet still call callbacks with it, so Revoke must end them.
type formerGrant struct {
	until    int // the number of the grant that followed
	watch    *idWatch
	channels []channelhost.Channel // at the time of the change
}

// has reports whether a channel has not handled the change.
func (f *formerGrant) has(c channelhost.Channel) bool {
	v, _ := c.Values().(*verified)
	return v != nil && v.number < f.until
}

// pruneFormer forgets the grants that are over. The caller holds change.
func (a *sessionAuth) pruneFormer() {
	a.former = slices.DeleteFunc(a.former, func(f formerGrant) bool {
		over := !slices.ContainsFunc(f.channels, f.has)
		if over {
			f.watch.on.Cancel()
		}
		return over
	})
}

// leaveFormer keeps the subscription to the subject of a client that has logged out, if a channel
// still has that identity. The caller holds change.
func (s *session) leaveFormer(f *formerGrant) {
	f.watch = s.id.Swap(nil)
	s.auth.former = append(s.auth.former, *f)
	s.auth.pruneFormer()
	f.watch.check() // Revoke may have been called before the swap
}

// revokeFormer ends the channels that still have the identity of a client that has logged out.
func (s *session) revokeFormer(w *idWatch, reason string) {
	s.auth.change.Lock()
	defer s.auth.change.Unlock()
	for i := range s.auth.former {
		f := &s.auth.former[i]
		if f.watch != w {
			continue
		}
		for _, c := range f.channels {
			if f.has(c) {
				c.Revoke(closeReason(reason))
			}
		}
	}
	s.auth.pruneFormer()
}

// revokeBy is revoke, or revokeFormer if the client has logged out since Revoke was called.
func (s *session) revokeBy(w *idWatch, reason string) {
	if s.auth == nil || s.id.Load() == w {
		s.revoke(reason)
		return
	}
	s.revokeFormer(w, reason)
}

// unwatch ends the subscriptions to the subjects, when the session has ended.
func (s *session) unwatch() {
	if id := s.id.Load(); id != nil {
		id.on.Cancel()
	}
	if s.auth == nil {
		return
	}
	s.auth.change.Lock()
	defer s.auth.change.Unlock()
	for _, f := range s.auth.former {
		f.watch.on.Cancel()
	}
	s.auth.former = nil
}

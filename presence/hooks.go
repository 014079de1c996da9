package presence

// Hooks are functions that a Presence calls about its changes on this node, for metrics. Nil
// functions are not called. They run under no lock, and may run on several goroutines at once. The
// goroutine waits for them, so they must be fast. They must not end it, and must not call the
// Presence. A panic of one is logged and has no other effect.
type Hooks struct {
	// Tracked is called on the caller's goroutine after Track, Update, Change and Untrack, and their
	// variants for any owner. The op is "track", "update" or "untrack", and the error is the
	// caller's. It is not called when an owner ends.
	Tracked func(op, topic, key string, err error)
	// Diff is called after a diff was sent to this node's subscribers of the topic, or if it has
	// none, would have been. It runs on a goroutine of the Presence, in the order of the topic's
	// diffs. Joins and leaves are numbers of keys: an update is both.
	Diff func(topic string, joins, leaves, subscribers int)
}

// eachHook calls f with all hooks. The caller must hold no lock.
func (p *Presence) eachHook(f func(h *Hooks)) {
	for _, h := range p.cfg.Hooks {
		if err := callUser(func() error { f(h); return nil }); err != nil {
			p.log.Error().Err(err).Msg("presence: hook crashed")
		}
	}
}

func (p *Presence) notifyTracked(op, topic, key string, err error) {
	p.eachHook(func(h *Hooks) {
		if h.Tracked != nil {
			h.Tracked(op, topic, key, err)
		}
	})
}

func (p *Presence) notifyDiff(topic string, c change, subscribers int) {
	p.eachHook(func(h *Hooks) {
		if h.Diff != nil {
			h.Diff(topic, len(c.joins), len(c.leaves), subscribers)
		}
	})
}

package presence

// OnUpdate registers a function that is called when a meta of a key is replaced by another one, as
// by Presence.Update of the server. Current is the entry after that. The function off removes f.
//
// An update arrives as a join and a leave of the same key. OnJoin and OnLeave are called for it as
// well, so a program that uses OnUpdate can ignore those: the PrevRef of the meta that joined is
// the Ref of the one that left. If a meta is replaced several times in one diff, f is called once,
// with the first and the last one.
func (p *Client) OnUpdate(f func(key string, current Entry, old, updated Meta)) (off func()) {
	return listen(&p.mu, &p.onUpdate, f)
}

// update is the replacement of a meta by another one.
type update struct {
	key          string
	old, updated Meta
}

// updates returns the updates of a diff that is about to be merged into s.
func (s State) updates(d Diff) (list []update) {
	for key, joined := range d.Joins.All() {
		left, ok := d.Leaves.Get(key)
		if !ok {
			continue
		}
		current, _ := s.Get(key)
		known, joins, leaves := byRef(current.Metas), byRef(joined.Metas), byRef(left.Metas)
		for _, last := range joined.Metas {
			if _, isReplaced := leaves[last.Ref]; isReplaced {
				continue
			}
			if old, ok := origin(last, known, joins, leaves); ok {
				list = append(list, update{key, old, last})
			}
		}
	}
	return list
}

// origin returns the meta of the list that m has replaced, directly or through metas that joined
// and left in the same diff. It removes the leaves that it passes, so that no meta is replaced by
// two others and a cycle of refs ends.
func origin(m Meta, known, joins, leaves map[string]Meta) (old Meta, ok bool) {
	for m.PrevRef != "" {
		ref := m.PrevRef
		if _, ok := leaves[ref]; !ok {
			return old, false
		}
		delete(leaves, ref)
		if old, ok := known[ref]; ok {
			return old, true
		}
		if m, ok = joins[ref]; !ok {
			return old, false
		}
	}
	return old, false
}

func byRef(metas []Meta) map[string]Meta {
	m := make(map[string]Meta, len(metas))
	for _, meta := range metas {
		m[meta.Ref] = meta
	}
	return m
}

// updated appends the OnUpdate callbacks for updates that were merged. The caller must hold mu.
func (p *Client) updated(list []update, calls *[]func()) {
	to := p.onUpdate
	for _, u := range list {
		current, _ := p.state.Get(u.key)
		*calls = append(*calls, func() {
			for _, l := range to {
				if !l.off.Load() {
					l.f(u.key, current, u.old, u.updated)
				}
			}
		})
	}
}

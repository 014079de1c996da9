package durable

import (
	"context"
	"time"

	"bennu.example/offline"
)

const (
	maxChanges     = 256     // of one commit
	maxChangeBytes = 8 << 20 // of one commit, unless a single change is larger

	// dropRetry is the time after which a removal that has failed is tried again. Until then, an
	// entry that was answered would be sent again by the next process.
	dropRetry = 10 * time.Second
	// maxUndropped bounds the removals that have failed. Those beyond it are forgotten.
	maxUndropped = 5000
)

// change is a change of the store.
type change struct {
	op    offline.Op
	entry *entry
	kind  changeKind

	// Of changeMirror.
	mirror *Mirror      // nil if the change only removes mirrors, or has no operations
	ops    []offline.Op // take the place of op. Nil means those of Mirror when the committer begins

	// Of changeNew and changeMirror.
	err  error // may be read when done is closed
	done chan struct{}
}

type changeKind uint8

const (
	changeNew    changeKind = iota // stores a new entry
	changeSent                     // stores Entry.Sent
	changeDrop                     // removes an entry
	changeMirror                   // stores a mirror, or removes some
)

// commitLocked enqueues changes for the committer. The caller holds mu.
func (o *Outbox) commitLocked(c ...*change) {
	o.changes = append(o.changes, c...)
	if !o.isRunning {
		o.isRunning = true
		o.host.Started()
		go o.commit()
	}
}

func (o *Outbox) enqueueChanges(c ...*change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.commitLocked(c...)
}

// drop removes an entry that was answered.
func (o *Outbox) drop(e *entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.releaseLocked(e)
	o.commitLocked(&change{op: offline.Op{Drop: e.Seq}, kind: changeDrop, entry: e})
}

// commit is the committer. It ends when there are no more changes.
func (o *Outbox) commit() {
	defer o.host.Stopped()
	for {
		batch, undropped := o.nextChanges()
		if batch == nil {
			return
		}
		err := o.apply(batch, undropped)
		if err != nil {
			o.dropLater(undropped, err)
		}
		if err == nil || len(batch) == 1 && len(undropped) == 0 {
			o.committed(batch, err)
			continue
		}
		for i := range batch { // so that one of them cannot fail the others
			o.committed(batch[i:i+1], o.apply(batch[i:i+1], nil))
		}
	}
}

// nextChanges takes the changes of the next commit and the removals that have failed before, or
// notes that the committer ends.
func (o *Outbox) nextChanges() (batch []*change, undropped []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.changes) == 0 {
		o.isRunning = false
		return nil, nil
	}
	n, bytes := 0, 0
	for n < len(o.changes) && n < maxChanges {
		if e := o.changes[n].op.Put; e != nil {
			bytes += len(e.Payload)
		}
		if m := o.changes[n].mirror; m != nil && o.mirrors.stored[m.key] != nil {
			bytes += len(o.mirrors.stored[m.key].Value)
		}
		if n > 0 && bytes > maxChangeBytes {
			break
		}
		n++
	}
	batch = o.changes[:n:n]
	if o.changes = o.changes[n:]; len(o.changes) == 0 {
		o.changes = nil
	}
	undropped, o.undropped = o.undropped, nil
	return batch, undropped
}

// apply makes a commit.
func (o *Outbox) apply(batch []*change, undropped []uint64) error {
	ops := make([]offline.Op, 0, len(undropped)+len(batch))
	for _, seq := range undropped {
		ops = append(ops, offline.Op{Drop: seq})
	}
	for _, c := range batch {
		if c.kind == changeMirror {
			ops = append(ops, o.prepare(c)...)
		} else {
			ops = append(ops, c.op)
		}
	}
	if len(ops) == 0 {
		return nil
	}
	return o.cfg.Store.Apply(context.Background(), o.cfg.Identity, ops)
}

// committed passes on the results of changes.
func (o *Outbox) committed(batch []*change, err error) {
	for _, c := range batch {
		switch c.kind {
		case changeNew:
			o.committedNew(c, err)
		case changeSent:
			o.host.Post(task(func() { o.sentStored(c.entry, c.op.Put.Sent, err) }))
		case changeDrop:
			if err != nil {
				o.dropLater([]uint64{c.op.Drop}, err)
			}
		case changeMirror:
			o.committedMirror(c, err)
		}
	}
}

func (o *Outbox) committedNew(c *change, err error) {
	defer close(c.done)
	e := c.entry
	if err != nil {
		c.err = storeError(err)
		o.mu.Lock()
		o.releaseLocked(e)
		o.mu.Unlock()
		o.dropLater([]uint64{e.Seq}, err) // a commit that fails at its very end may have stored it
		return
	}
	o.mu.Lock()
	o.entries[e.Seq] = e
	o.mu.Unlock()
	if !o.host.Post(task(func() { o.stored(e) })) {
		e.answer(failed(o.host.Closing())) // a later process sends it
	}
}

// dropLater notes removals that have failed, or that a failed commit has made necessary. They are
// part of the next commit, which the loop causes if nothing else does.
func (o *Outbox) dropLater(list []uint64, err error) {
	if len(list) == 0 {
		return
	}
	o.host.Log().Warn().Err(err).Int("entries", len(list)).Msg("entries of the outbox were not removed")
	o.mu.Lock()
	isFirst := len(o.undropped) == 0
	o.undropped = append(o.undropped, list[:min(len(list), maxUndropped-len(o.undropped))]...)
	o.mu.Unlock()
	if isFirst {
		o.host.Post(task(o.armDrop))
	}
}

// armDrop arms the timer of the next attempt to remove entries.
func (o *Outbox) armDrop() {
	if !o.isEnded && !o.redrop.IsArmed() {
		o.host.Arm(&o.redrop, dropRetry)
	}
}

// dropAgain lets the committer remove entries again.
func (o *Outbox) dropAgain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.undropped); n > 0 {
		seq := o.undropped[n-1]
		o.undropped = o.undropped[:n-1]
		o.commitLocked(&change{op: offline.Op{Drop: seq}, kind: changeDrop})
	}
}

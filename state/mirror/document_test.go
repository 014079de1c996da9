package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// counter is the value of the documents of these tests.
type counter struct{ N int }

func openDoc(t *testing.T, o mirror.Opener, topic string, opt *mirror.Options) *mirror.Document[counter] {
	t.Helper()
	d, err := mirror.OpenDocument[counter](t.Context(), o, topic, opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func increment(c *counter) error {
	c.N++
	return nil
}

func TestDocument(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		a, b := r.client(), r.client()
		d := openDoc(t, a, "doc:1", nil)
		if v, rev := d.Value(); v.N != 0 || rev != 0 || d.ID() != "" || !d.Synced() || d.Stale() {
			t.Errorf("an absent document has %+v, revision %d, id %q", v, rev, d.ID())
		}
		e := openDoc(t, b, "doc:1", &mirror.Options{Value: counter{5}})
		if v, rev := e.Value(); v.N != 5 || rev != 1 || e.ID() == "" {
			t.Errorf("the document was created with %+v, revision %d, id %q", v, rev, e.ID())
		}
		synctest.Wait()
		changes := read(t, d.Changes(t.Context()))
		if c := changes.change(); c.Kind != mirror.Put || c.Value.N != 5 || c.Rev != 1 || c.Old != nil {
			t.Errorf("%+v", c)
		}
		changes.kinds(mirror.Synced)

		if err := e.Set(t.Context(), counter{7}); err != nil {
			t.Fatal(err)
		}
		if v, rev := e.Value(); v.N != 7 || rev != 2 {
			t.Errorf("the copy has %+v, revision %d, after Set returned", v, rev)
		}
		if c := changes.change(); c.Value.N != 7 || c.Rev != 2 || c.Old == nil || c.Old.N != 5 {
			t.Errorf("%+v", c)
		}
		if d.ID() != e.ID() {
			t.Errorf("two mirrors of one object have the ids %q and %q", d.ID(), e.ID())
		}
		if err := d.Update(t.Context(), increment); err != nil {
			t.Fatal(err)
		}
		if v, _ := d.Value(); v.N != 8 {
			t.Errorf("%+v after Update", v)
		}
		failed := errors.New("failed")
		if err := d.Update(t.Context(), func(*counter) error { return failed }); !errors.Is(err, failed) {
			t.Errorf("Update returned %v", err)
		}
	})
}

// TestUpdateRepeatsOnConflict lets another client write between the read and the write of an
// Update.
func TestUpdateRepeatsOnConflict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		d := openDoc(t, r.client(), "doc:1", &mirror.Options{Value: counter{}})
		calls := 0
		err := d.Update(t.Context(), func(c *counter) error {
			if calls++; calls <= 3 {
				r.put("doc:1", state.Op{Value: []byte(`{"N":100}`)})
			}
			return increment(c)
		})
		if v, _ := d.Value(); err != nil || calls != 4 || v.N != 101 {
			t.Errorf("%+v after %d calls, error %v", v, calls, err)
		}
	})
}

// TestUpdatesUnderCuts adds up what four clients count while all connections are cut again and
// again.
func TestUpdatesUnderCuts(t *testing.T) {
	t.Parallel()
	updates := *updates
	run := func(t *testing.T, r *rig) {
		const clients, cutEvery = 4, 10
		var mirrors []*mirror.Document[counter]
		for range clients {
			mirrors = append(mirrors, openDoc(t, r.client(), "doc:1", nil))
		}
		var calls, cuts atomic.Int64
		var work, cutting sync.WaitGroup
		for _, d := range mirrors {
			work.Go(func() {
				for range updates {
					err := d.Update(t.Context(), func(c *counter) error {
						if calls.Add(1)%cutEvery == 0 { // at the same time as the write
							cuts.Add(1)
							cutting.Go(r.cut)
						}
						return increment(c)
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		work.Wait()
		cutting.Wait()
		rev := uint64(0)
		for _, d := range mirrors {
			_, own := d.Value()
			rev = max(rev, own)
		}
		for i, d := range mirrors {
			changes := read(t, d.Changes(t.Context()))
			for _, at := d.Value(); at < rev; _, at = d.Value() {
				changes.change()
			}
			if v, _ := d.Value(); v.N != clients*updates {
				t.Errorf("client %d has %d, want %d", i, v.N, clients*updates)
			}
		}
		t.Logf("%d updates, %d calls, %d cuts", clients*updates, calls.Load(), cuts.Load())
	}
	t.Run("virtual time", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { run(t, newRig(t, state.Config{})) })
	})
	t.Run("TCP", func(t *testing.T) {
		t.Parallel()
		run(t, newTCPRig(t, state.Config{}))
	})
}

func TestOpenModes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		c := r.client()
		_, err := mirror.OpenDocument[counter](t.Context(), c, "doc:1", &mirror.Options{Mode: mirror.Existing})
		if !errors.Is(err, mirror.ErrNotFound) || !errors.Is(err, state.ErrNotFound) {
			t.Errorf("Existing: %v", err)
		}
		d := openDoc(t, c, "doc:1", &mirror.Options{Mode: mirror.New, TTL: time.Hour})
		if left := time.Until(d.Expires()); left < 59*time.Minute || left > time.Hour {
			t.Errorf("it expires in %v", left)
		}
		_, err = mirror.OpenDocument[counter](t.Context(), r.client(), "doc:1", &mirror.Options{Mode: mirror.New})
		if !errors.Is(err, mirror.ErrExists) {
			t.Errorf("New: %v", err)
		}
		// The mirror that was opened with New comes back to the same object.
		changes := read(t, d.Changes(t.Context()))
		changes.kinds(mirror.Put, mirror.Synced)
		r.cut()
		changes.kinds(mirror.Synced)
		if _, err := mirror.OpenDocument[counter](t.Context(), c, "doc:1", nil); !errors.Is(err, channel.ErrDuplicate) {
			t.Errorf("the second mirror on one client: %v", err)
		}
		if err := d.Set(t.Context(), counter{1}); err != nil {
			t.Error(err)
		}
		changes.kinds(mirror.Put)
		// While it is away, the object is removed: it must not be made again.
		r.setDown(true)
		if err := r.objects.Remove(t.Context(), "doc:1"); err != nil {
			t.Fatal(err)
		}
		r.setDown(false)
		if err := changes.err(); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("the sequence ended by %v", err)
		}
		changes.end()
		if !d.Stale() || d.Synced() {
			t.Error("the mirror does not know that it has ended")
		}
		if err := d.Update(t.Context(), increment); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("Update: %v", err)
		}
	})
}

func TestRemovedAndExpired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		c := r.client()
		for reason, end := range map[push.Reason]func() error{
			"removed": func() error { return r.objects.Remove(t.Context(), "doc:1") },
			"expired": func() error { return nil }, // by itself
		} {
			d := openDoc(t, c, "doc:1", &mirror.Options{Value: counter{3}, TTL: 5 * time.Second})
			changes := read(t, d.Changes(t.Context()))
			changes.kinds(mirror.Put, mirror.Synced)
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if err := changes.err(); !errors.Is(err, reason) || !errors.Is(err, channel.ErrClosed) {
				t.Errorf("%s: the sequence ended by %v", reason, err)
			}
			changes.end()
			if v, _ := d.Value(); v.N != 3 || !d.Stale() {
				t.Errorf("%s: the copy has %+v", reason, v)
			}
			if err := d.Set(t.Context(), counter{4}); !errors.Is(err, channel.ErrClosed) {
				t.Errorf("%s: Set: %v", reason, err)
			}
		}
	})
}

// TestResetAfterRemoval opens a document that is removed and made again during an interruption.
func TestResetAfterRemoval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		d := openDoc(t, r.client(), "doc:1", &mirror.Options{Value: counter{3}})
		changes := read(t, d.Changes(t.Context()))
		changes.kinds(mirror.Put, mirror.Synced)
		id := d.ID()
		r.setDown(true)
		if err := r.objects.Remove(t.Context(), "doc:1"); err != nil {
			t.Fatal(err)
		}
		r.put("doc:1", state.Op{Value: []byte(`{"N":9}`)})
		r.setDown(false)
		changes.kinds(mirror.Reset)
		if c := changes.change(); c.Kind != mirror.Put || c.Value.N != 9 || c.Rev != 1 || c.Old != nil {
			t.Errorf("%+v", c)
		}
		changes.kinds(mirror.Synced)
		if d.ID() == id {
			t.Error("another object has the same id")
		}
	})
}

func TestSaveAndRestore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		d := openDoc(t, r.client(), "doc:1", &mirror.Options{Value: counter{1}})
		saved, err := d.Save()
		if err != nil {
			t.Fatal(err)
		}
		d.Close(mirror.Forget)
		// A restored copy is not read again: a value that only the saved copy has stays.
		other := bytes.Replace(saved, []byte(`{"N":1}`), []byte(`{"N":77}`), 1)
		d = openDoc(t, r.client(), "doc:1", &mirror.Options{Restore: other})
		if v, rev := d.Value(); v.N != 77 || rev != 1 {
			t.Errorf("%+v, revision %d", v, rev)
		}
		d.Close(mirror.Forget)
		r.put("doc:1", state.Op{Value: []byte(`{"N":2}`)})

		d = openDoc(t, r.client(), "doc:1", &mirror.Options{Restore: saved})
		if v, rev := d.Value(); v.N != 2 || rev != 2 {
			t.Errorf("%+v, revision %d", v, rev)
		}
		d.Close(mirror.Forget)
		for what, opt := range map[string]struct {
			topic string
			text  string
		}{
			"another topic": {"doc:2", string(saved)},
			"no copy":       {"doc:1", `{"version":1}`},
			"no JSON":       {"doc:1", "x"},
		} {
			_, err := mirror.OpenDocument[counter](t.Context(), r.client(), opt.topic,
				&mirror.Options{Restore: []byte(opt.text)})
			if err == nil {
				t.Errorf("%s was restored", what)
			}
		}
	})
}

func TestClosePolicies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		c := r.client()
		d := openDoc(t, c, "doc:1", &mirror.Options{Value: counter{1}})
		first := read(t, d.Changes(t.Context()))
		first.kinds(mirror.Put, mirror.Synced)
		d.Close(mirror.KeepUpdating)
		first.end()
		second := read(t, d.Changes(t.Context()))
		second.kinds(mirror.Put, mirror.Synced)
		r.put("doc:1", state.Op{Value: []byte(`{"N":2}`)})
		if second.kinds(mirror.Put); d.Stale() {
			t.Error("KeepUpdating ended the mirror")
		}
		d.Close(mirror.Keep)
		second.end()
		r.put("doc:1", state.Op{Value: []byte(`{"N":3}`)})
		synctest.Wait()
		if v, rev := d.Value(); v.N != 2 || rev != 2 || !d.Stale() || d.Synced() {
			t.Errorf("Keep: %+v, revision %d", v, rev)
		}
		again := openDoc(t, c, "doc:1", nil) // the topic is free
		if v, _ := again.Value(); v.N != 3 {
			t.Errorf("%+v", v)
		}
		d.Close(mirror.Forget)
		if _, rev := d.Value(); rev != 0 {
			t.Error("Forget kept the value")
		}
		read(t, d.Changes(t.Context())).end()
		if err := d.Set(t.Context(), counter{}); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("Set: %v", err)
		}
	})
}

func TestEndWithTheClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		c := r.client()
		d := openDoc(t, c, "doc:1", nil)
		changes := read(t, d.Changes(t.Context()))
		changes.kinds(mirror.Synced)
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := changes.err(); !errors.Is(err, channel.ErrClosed) {
			t.Error(err)
		}
		_, err := mirror.OpenDocument[counter](t.Context(), c, "doc:2", nil)
		if !errors.Is(err, channel.ErrClosed) {
			t.Errorf("opened on a closed client: %v", err)
		}
	})
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{Allow: func(_ context.Context, c *channel.Channel, a state.Access) error {
			if c.Topic() == "doc:secret" || a.Action == state.Write {
				return state.ErrForbidden
			}
			return nil
		}})
		c := r.client()
		open := func(topic string, opt *mirror.Options) error {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := mirror.OpenDocument[counter](ctx, c, topic, opt)
			if err == nil {
				t.Fatalf("%s was opened", topic)
			}
			return err
		}
		for topic, want := range map[string]error{
			"doc:secret": mirror.ErrForbidden,
			"map:1":      mirror.ErrInvalid,
			"room:1":     nil,
			"none:1":     push.Reason("unmatched topic"),
		} {
			if err := open(topic, nil); want != nil && !errors.Is(err, want) {
				t.Errorf("%s: %v", topic, err)
			}
		}
		if err := open("doc:1", &mirror.Options{Prefix: "a"}); !errors.Is(err, mirror.ErrInvalid) {
			t.Errorf("a document with keys: %v", err)
		}
		if err := open("doc:1", &mirror.Options{Value: func() {}}); err == nil {
			t.Error("a function was encoded")
		}
		d := openDoc(t, c, "doc:1", nil)
		if err := d.Set(t.Context(), counter{}); !errors.Is(err, mirror.ErrForbidden) {
			t.Errorf("Set: %v", err)
		}
		r.setDown(true)
		if err := open("doc:2", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a network: %v", err)
		}
	})
}

// TestUncertain interrupts a write, and lets the server forget its id before it is repeated.
func TestUncertain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entered, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		r := newRig(t, state.Config{Allow: func(ctx context.Context, _ *channel.Channel, a state.Access) error {
			if a.Action == state.Write {
				once.Do(func() {
					close(entered)
					<-release
				})
			}
			return nil
		}})
		d := openDoc(t, r.client(), "doc:1", &mirror.Options{Value: counter{1}})
		result := make(chan error, 1)
		go func() { result <- d.Set(t.Context(), counter{2}) }()
		<-entered
		r.setDown(true)
		for range 600 {
			r.put("doc:1", state.Op{Value: []byte(`{"N":7}`)})
		}
		close(release)
		r.setDown(false)
		if err := <-result; !errors.Is(err, history.ErrUncertain) || !errors.Is(err, push.ErrLost) {
			t.Errorf("Set returned %v", err)
		}
	})
}

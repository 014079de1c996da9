package mirror_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

func openStream(t *testing.T, r *rig, topic string, since history.Position) *mirror.Stream[int] {
	t.Helper()
	s, err := mirror.OpenStream[int](t.Context(), r.client(), topic, since)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func publish(t *testing.T, s *mirror.Stream[int], n int) history.Position {
	t.Helper()
	pos, err := s.Publish(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// messages reads a stream.
type messages struct {
	t    *testing.T
	next func() (mirror.Message[int], error, bool)
}

func listen(t *testing.T, s *mirror.Stream[int]) messages {
	next, stop := iter.Pull2(s.Events(t.Context()))
	t.Cleanup(stop)
	return messages{t, next}
}

func (m messages) message() mirror.Message[int] {
	m.t.Helper()
	got, err, ok := m.next()
	if err != nil || !ok {
		m.t.Fatalf("no message: %v, %v", err, ok)
	}
	return got
}

func TestStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, state.Config{})
	a := openStream(t, r, "stream:1", history.Position{})
	in := listen(t, a)
	if m := in.message(); !m.Reset || m.Snapshot || m.Value != 0 {
		t.Errorf("it begins with %+v", m)
	}
	var all []history.Position
	for n := 1; n <= 3; n++ {
		all = append(all, publish(t, a, n))
		if m := in.message(); m.Reset || m.Value != n || m.Position != all[n-1] {
			t.Errorf("%+v instead of %d at %s", m, n, all[n-1])
		}
	}
	if a.Position() != all[2] {
		t.Errorf("the position is %s", a.Position())
	}
	if err := a.Snapshot(t.Context(), all[1], 100); err != nil {
		t.Fatal(err)
	}
	b := listen(t, openStream(t, r, "stream:1", history.Position{}))
	if m := b.message(); !m.Reset || !m.Snapshot || m.Value != 100 || m.Position != all[1] {
		t.Errorf("it begins with %+v instead of the snapshot", m)
	}
	if m := b.message(); m.Value != 3 {
		t.Errorf("%+v follows the snapshot", m)
	}
	c := listen(t, openStream(t, r, "stream:1", all[0]))
	for n := 2; n <= 3; n++ {
		if m := c.message(); m.Reset || m.Value != n {
			t.Errorf("%+v instead of %d", m, n)
		}
	}
	if _, err := a.PublishBinary(t.Context(), []byte{0, 255}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []messages{in, b, c} {
		if m := s.message(); string(m.Data) != "\x00\xff" || m.Value != 0 {
			t.Errorf("%+v", m)
		}
	}
	a.Close()
	a.Close()
	if m, err, ok := in.next(); ok {
		t.Errorf("%+v, %v after Close", m, err)
	}
	if _, err := a.Publish(t.Context(), 1); !errors.Is(err, channel.ErrClosed) {
		t.Errorf("publish after Close: %v", err)
	}
}

// TestStreamUnderCuts has a reader and a writer whose connections are lost. Each message comes once
// and in order.
func TestStreamUnderCuts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		r := newRig(t, state.Config{})
		random := rand.New(rand.NewPCG(1, 1))
		w, s := openStream(t, r, "stream:1", history.Position{}), openStream(t, r, "stream:1", history.Position{})
		written := make(chan error, 1)
		go func() {
			for i := 1; i <= n; i++ {
				if _, err := w.Publish(t.Context(), i); err != nil {
					written <- err
					return
				}
			}
			written <- nil
		}()
		stop, cut := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(cut)
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(random.IntN(12)) * time.Millisecond):
					r.cut()
				}
			}
		}()
		in := listen(t, s)
		for want := 0; want <= n; want++ {
			if m := in.message(); m.Value != want || m.Reset != (want == 0) {
				t.Fatalf("%+v instead of %d", m, want)
			}
		}
		close(stop)
		<-cut
		if err := <-written; err != nil {
			t.Error(err)
		}
	})
}

// TestStreamErrors has what a server refuses.
func TestStreamErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t, state.Config{
		Allow: func(_ context.Context, _ *channel.Channel, a state.Access) error {
			if a.Topic == "stream:secret" || string(a.Op.Value) == "13" {
				return state.ErrForbidden
			}
			return nil
		},
		Limits: state.Limits{Value: 10},
	})
	open := func(topic string) error {
		_, err := mirror.OpenStream[int](t.Context(), r.client(), topic, history.Position{})
		return err
	}
	for topic, want := range map[string]error{
		"stream:secret": mirror.ErrForbidden, "map:1": mirror.ErrInvalid, "room:1": nil,
	} {
		if err := open(topic); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("open %s: %v, want %v", topic, err, want)
		}
	}
	s := openStream(t, r, "stream:1", history.Position{})
	if _, err := s.Publish(t.Context(), 13); !errors.Is(err, mirror.ErrForbidden) {
		t.Errorf("forbidden: %v", err)
	}
	if _, err := s.Publish(t.Context(), 123_456_789_012); !errors.Is(err, mirror.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, err := s.PublishBinary(t.Context(), make([]byte, 11)); !errors.Is(err, mirror.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := s.Snapshot(t.Context(), history.Position{}, 1); !errors.Is(err, mirror.ErrInvalid) {
		t.Errorf("no position: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Publish(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	for m, err := range s.Events(ctx) {
		t.Errorf("%+v, %v after the end of the context", m, err)
	}
	// A value that is not a T.
	w, err := mirror.OpenStream[string](t.Context(), r.client(), "stream:1", history.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	in := listen(t, s)
	in.message()
	pos, err := w.Publish(t.Context(), "text")
	if err != nil {
		t.Fatal(err)
	}
	if m, err, ok := in.next(); err == nil || !ok || m.Position != pos || m.Value != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestStreamEnds has a server that shuts down. The sequence says so.
func TestStreamEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, state.Config{})
	client := r.client()
	s, err := mirror.OpenStream[int](t.Context(), client, "stream:1", history.Position{})
	if err != nil {
		t.Fatal(err)
	}
	in := listen(t, s)
	in.message()
	publish(t, s, 1) // nobody reads it: closing must not wait for that
	if err := client.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		m, err, ok := in.next()
		if err != nil && errors.Is(err, channel.ErrClosed) {
			break
		}
		if !ok || err != nil || m.Value != 1 {
			t.Fatalf("%+v, %v, %v", m, err, ok)
		}
	}
}

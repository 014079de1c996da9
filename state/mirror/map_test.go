package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

func openMap(t *testing.T, o mirror.Opener, topic string, opt *mirror.Options) *mirror.Map[int] {
	t.Helper()
	m, err := mirror.OpenMap[int](t.Context(), o, topic, opt)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		a, b := openMap(t, r.client(), "map:1", nil), openMap(t, r.client(), "map:1", nil)
		changes := read(t, b.Changes(t.Context()))
		changes.kinds(mirror.Synced)
		next := func(want mirror.Change[int], old int) {
			t.Helper()
			got := changes.change()
			if has := got.Old != nil; has != (old != 0) || has && *got.Old != old {
				t.Errorf("%+v: the old value is wrong", got)
			}
			if got.Old = nil; got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
		ctx := t.Context()
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		check(a.Set(ctx, "m", 1))
		next(mirror.Change[int]{Key: "m", Value: 1, Rev: 1}, 0)
		check(a.Set(ctx, "z", 2))
		next(mirror.Change[int]{Key: "z", Value: 2, Rev: 2, After: "m", Index: 1}, 0)
		check(a.SetIf(ctx, "c", 0, 3))
		next(mirror.Change[int]{Key: "c", Value: 3, Rev: 3}, 0)
		check(a.SetIf(ctx, "m", 1, 4))
		next(mirror.Change[int]{Key: "m", Value: 4, Rev: 4, After: "c", Index: 1}, 1)
		var conflict *mirror.ConflictError
		if err := a.SetIf(ctx, "m", 1, 5); !errors.As(err, &conflict) || conflict.Key != "m" || conflict.Rev != 4 ||
			string(conflict.Value) != "4" {
			t.Errorf("%+v", err)
		}
		check(a.Update(ctx, "m", func(v *int) error { *v *= 10; return nil }))
		next(mirror.Change[int]{Key: "m", Value: 40, Rev: 5, After: "c", Index: 1}, 4)
		check(a.Delete(ctx, "m"))
		next(mirror.Change[int]{Kind: mirror.Delete, Key: "m", Rev: 6, After: "c", Index: 1, Reason: "deleted"}, 40)
		check(a.Delete(ctx, "never"))
		key, err := a.Add(ctx, 7)
		check(err)
		next(mirror.Change[int]{Key: key, Value: 7, Rev: 7}, 0)
		second := 100 * time.Millisecond
		keys, err := a.Batch(ctx, mirror.Op[int]{Key: "q", Value: 8, TTL: &second}, mirror.Op[int]{Value: 9},
			mirror.Op[int]{Key: "c", Delete: true})
		check(err)
		if len(keys) != 3 || keys[0] != "q" || keys[1] <= key || keys[2] != "c" {
			t.Errorf("the keys of the batch are %q", keys)
		}
		if got, rev := a.Get("q"); got != 8 || rev == 0 {
			t.Errorf("q is %d after Batch returned", got)
		}
		changes.kinds(mirror.Put, mirror.Put, mirror.Delete)
		if c := changes.change(); c.Kind != mirror.Delete || c.Key != "q" || c.Reason != "expired" {
			t.Errorf("%+v", c)
		}
		want := map[string]int{key: 7, keys[1]: 9, "z": 2}
		if got := maps.Collect(b.All()); !maps.Equal(got, want) || b.Len() != 3 {
			t.Errorf("%v, want %v", got, want)
		}
		if v, rev := b.Get("c"); v != 0 || rev != 0 {
			t.Errorf("a deleted key has %d, revision %d", v, rev)
		}
	})
}

// TestPages opens a map of many pages, whole and in part.
func TestPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		const n = 2000
		for i := 0; i < n; i += 100 {
			ops := make([]state.Op, 100)
			for j := range ops {
				ops[j] = state.Op{Key: fmt.Sprintf("k%04d", i+j), Value: fmt.Append(nil, i+j)}
			}
			r.put("map:1", ops...)
		}
		c := r.client()
		for _, part := range []struct {
			opt      mirror.Options
			from, to int
		}{
			{mirror.Options{}, 0, n},
			{mirror.Options{Prefix: "k1"}, 1000, 2000},
			{mirror.Options{From: "k0500", To: "k0600"}, 500, 600},
		} {
			m := openMap(t, c, "map:1", &part.opt)
			next := part.from
			for key, v := range m.All() {
				if key != fmt.Sprintf("k%04d", next) || v != next {
					t.Fatalf("%s is %d, want %d", key, v, next)
				}
				next++
			}
			if next != part.to {
				t.Errorf("%+v: ends before %d, want %d", part.opt, next, part.to)
			}
			m.Close(mirror.Forget)
		}
	})
}

// TestWritesBesideTheRange writes keys that the mirror does not have.
func TestWritesBesideTheRange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		m := openMap(t, r.client(), "map:1", &mirror.Options{Prefix: "a/"})
		ctx := t.Context()
		for range 3 {
			if err := m.Update(ctx, "b/1", func(v *int) error { *v++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Batch(ctx, mirror.Op[int]{Key: "a/1", Value: 5}, mirror.Op[int]{Key: "c", Value: 6}); err != nil {
			t.Fatal(err)
		}
		if v, _ := m.Get("a/1"); v != 5 || m.Len() != 1 {
			t.Errorf("a/1 is %d, of %d items", v, m.Len())
		}
		whole := openMap(t, r.client(), "map:1", nil)
		if v, _ := whole.Get("b/1"); v != 3 {
			t.Errorf("b/1 is %d", v)
		}
	})
}

// TestReasons has each reason that a server gives for a write.
func TestReasons(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{
			Limits: state.Limits{Value: 10, Items: 3, Batch: 2, Rate: 4},
			Allow: func(_ context.Context, _ *channel.Channel, a state.Access) error {
				switch a.Op.Key {
				case "secret":
					return state.ErrForbidden
				case "no":
					return push.Reason("never")
				}
				return nil
			},
		})
		m, err := mirror.OpenMap[any](t.Context(), r.client(), "map:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		value := func(v any) error {
			time.Sleep(time.Second) // of the rate
			return m.Set(ctx, "a", v)
		}
		key := func(k string) error {
			time.Sleep(time.Second)
			return m.Set(ctx, k, 1)
		}
		ops := func(ops ...mirror.Op[any]) error {
			_, err := m.Batch(ctx, ops...)
			return err
		}
		for i, c := range []struct {
			got, want error
		}{
			{value("0123456789"), mirror.ErrTooLarge},
			{value(map[string]int{"$no": 1}), mirror.ErrInvalid},
			{value(map[string]int{"$inc": 1}), nil},
			{key(""), mirror.ErrInvalid},
			{key("\n"), mirror.ErrInvalid},
			{key(string(make([]byte, 300))), mirror.ErrTooLarge},
			{key("secret"), mirror.ErrForbidden},
			{key("no"), push.Reason("never")},
			{ops(make([]mirror.Op[any], 3)...), mirror.ErrTooLarge},
			{ops(mirror.Op[any]{Key: "b"}, mirror.Op[any]{Key: "b"}), mirror.ErrInvalid},
			{ops(), nil},
			{key("b"), nil},
			{key("c"), nil},
			{key("d"), mirror.ErrQuota},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%d: %v, want %v", i, c.got, c.want)
			}
		}
		var limit *mirror.LimitError
		for range 20 {
			if err = m.Set(ctx, "a", 1); err != nil {
				break
			}
		}
		if !errors.As(err, &limit) || limit.Err != mirror.ErrQuota || limit.After <= 0 || limit.After > time.Second {
			t.Errorf("the rate: %+v", err)
		}
	})
}

// TestRepeatedWritesApplyOnce cuts the connection between the application of a write and its reply.
func TestRepeatedWritesApplyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		m := openMap(t, r.client(), "map:1", nil)
		watch := openMap(t, r.client(), "map:1", nil)
		applied := make(chan struct{})
		go func() { // cuts as soon as the first change of the other mirror's write is seen
			defer close(applied)
			changes := watch.Changes(t.Context())
			n := 0
			for c, err := range changes {
				if err != nil {
					t.Error(err)
					return
				}
				if c.Kind == mirror.Put {
					if n++; n == 20 {
						return
					}
					r.cut()
				}
			}
		}()
		for i := range 20 {
			if _, err := m.Add(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
		<-applied
		seen := map[int]int{}
		for _, v := range m.All() {
			seen[v]++
		}
		for i := range 20 {
			if seen[i] != 1 {
				t.Errorf("%d was added %d times", i, seen[i])
			}
		}
	})
}

func TestOverflow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		m := openMap(t, r.client(), "map:1", nil)
		slow, fast := read(t, m.Changes(t.Context())), read(t, m.Changes(t.Context()))
		slow.kinds(mirror.Synced)
		fast.kinds(mirror.Synced)
		const n = 1500
		for i := range n {
			r.put("map:1", state.Op{Key: fmt.Sprintf("k%03d", i%100), Value: fmt.Append(nil, i)})
			fast.kinds(mirror.Put)
		}
		var overflow *channel.OverflowError
		if err := slow.err(); !errors.As(err, &overflow) || overflow.Dropped != n || overflow.Topic != "map:1" {
			t.Fatalf("%+v", err)
		}
		r.put("map:1", state.Op{Key: "k000", Delete: true}) // the copy does not have it any more
		fast.kinds(mirror.Delete)
		slow.kinds(mirror.Reset)
		for i := 1; i < 100; i++ {
			if c := slow.change(); c.Kind != mirror.Put || c.Index != i-1 || c.Value != n-100+i {
				t.Fatalf("%+v", c)
			}
		}
		slow.kinds(mirror.Synced)
		// Large values overflow by their bytes.
		big := fmt.Appendf(nil, `"%060000d"`, 1)
		texts, err := mirror.OpenMap[string](t.Context(), r.client(), "map:2", nil)
		if err != nil {
			t.Fatal(err)
		}
		few, all := read(t, texts.Changes(t.Context())), read(t, texts.Changes(t.Context()))
		few.kinds(mirror.Synced)
		all.kinds(mirror.Synced)
		for range 100 {
			r.put("map:2", state.Op{Key: "a", Value: big})
			all.kinds(mirror.Put)
		}
		if err := few.err(); !errors.As(err, &overflow) || overflow.Dropped != 100 {
			t.Errorf("%v", err)
		}
		few.kinds(mirror.Reset, mirror.Put, mirror.Synced)
	})
}

// TestIterators ends loops in the middle of changes, by break and by their context.
func TestIterators(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, state.Config{})
		m := openMap(t, r.client(), "map:1", nil)
		r.put("map:1", state.Op{Key: "a", Value: []byte("1")}, state.Op{Key: "b", Value: []byte("2")},
			state.Op{Key: "x", Value: []byte(`"no number"`)})
		synctest.Wait()
		for c, err := range m.Changes(t.Context()) {
			if c.Key != "a" || err != nil {
				t.Errorf("%+v, %v", c, err)
			}
			break
		}
		for key := range m.All() {
			if key != "a" {
				t.Error(key)
			}
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n, failed := 0, 0
		for c, err := range m.Changes(ctx) {
			if n++; err != nil {
				if failed++; c.Key != "x" {
					t.Errorf("%+v, %v", c, err)
				}
			}
			if c.Kind == mirror.Synced {
				time.AfterFunc(time.Second, cancel)
			}
		}
		if n != 4 || failed != 1 {
			t.Errorf("%d changes, %d of them are no numbers", n, failed)
		}
		if v, rev := m.Get("x"); v != 0 || rev != 3 {
			t.Errorf("what is no number is %d, revision %d", v, rev)
		}
		if err := m.Update(t.Context(), "x", func(*int) error { return nil }); err == nil {
			t.Error("Update overwrote what it could not decode")
		}
	})
}

package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"

	"bennu.example/presence"
	"bennu.example/pubsub"
)

// TestFetch adds fields to lists and diffs (N284, N285, N287).
func TestFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var calls []string
		hold := make(chan struct{})
		n := newNode(t, presence.Config{Fetch: func(_ context.Context, _ string, keys []string) (map[string]any, error) {
			mu.Lock()
			calls = append(calls, strings.Join(keys, ","))
			mu.Unlock()
			if keys[0] == "slow" {
				<-hold
			}
			fields := map[string]any{"other": device{"x": 1}}
			for _, k := range keys {
				fields[k] = device{"name": strings.ToUpper(k), "metas": "not these"}
			}
			return fields, nil
		}})
		a := new(owner)
		n.track(a, "slow", nil)
		n.track(a, "u1", nil)
		n.track(a, "u2", nil)
		if _, err := n.UpdateFor(a, topic, "u1", device{"v": 2}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		n.want()
		close(hold)
		synctest.Wait()
		n.want(
			`{"joins":{"slow":{"metas":[{"phx_ref":"A"}],"name":"SLOW"}},"leaves":{}}`,
			`{"joins":{"u1":{"metas":[{"phx_ref":"B"}],"name":"U1"}},"leaves":{}}`,
			`{"joins":{"u2":{"metas":[{"phx_ref":"C"}],"name":"U2"}},"leaves":{}}`,
			`{"joins":{"u1":{"metas":[{"phx_ref":"D","phx_ref_prev":"B","v":2}],"name":"U1"}},`+
				`"leaves":{"u1":{"metas":[{"phx_ref":"B"}],"name":"U1"}}}`,
		)
		if want := []string{"slow", "u1", "u2", "u1"}; !slices.Equal(calls, want) {
			t.Errorf("fetched %q", calls)
		}
		e, _ := n.Get(topic, "u2")
		var whole struct{ Name string }
		if err := e.Decode(&whole); err != nil || whole.Name != "U2" {
			t.Errorf("%v, %v", whole, err)
		}
		n.wantList(`{"slow":{"metas":[{"phx_ref":"A"}],"name":"SLOW"},` +
			`"u1":{"metas":[{"phx_ref":"D","phx_ref_prev":"B","v":2}],"name":"U1"},` +
			`"u2":{"metas":[{"phx_ref":"C"}],"name":"U2"}}`)
	})
}

// TestFetchFails loses only the extra fields when Fetch fails, panics or ends its goroutine.
func TestFetchFails(t *testing.T) {
	t.Parallel()
	fails := map[string]func() (map[string]any, error){
		"error":     func() (map[string]any, error) { return nil, errors.New("no database") },
		"panic":     func() (map[string]any, error) { panic("no database") },
		"bad error": func() (map[string]any, error) { return nil, badError{} },
		"nil error": func() (map[string]any, error) { var err *fs.PathError; return nil, err },
		"bad value": func() (map[string]any, error) { return map[string]any{"u1": explosive{}, "u2": explosive{}}, nil },
		"no object": func() (map[string]any, error) { return map[string]any{"u1": 1, "u2": make(chan int)}, nil },
	}
	for name := range maps.Keys(fails) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				logger := zerolog.New(&log)
				fetch := func(context.Context, string, []string) (map[string]any, error) {
					return fails[name]()
				}
				n := newNode(t, presence.Config{Logger: &logger, Fetch: fetch})
				a := new(owner)
				n.track(a, "u1", nil)
				synctest.Wait()
				n.track(a, "u2", nil)
				synctest.Wait()
				n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"A"}]}},"leaves":{}}`,
					`{"joins":{"u2":{"metas":[{"phx_ref":"B"}]}},"leaves":{}}`)
				n.wantList(`{"u1":{"metas":[{"phx_ref":"A"}]},"u2":{"metas":[{"phx_ref":"B"}]}}`)
				if !strings.Contains(log.String(), "Fetch") {
					t.Errorf("log: %s", log.String())
				}
			})
		})
	}
}

// badError and explosive panic when they are used, which is after Fetch has returned.
type (
	badError  struct{}
	explosive struct{}
)

func (badError) Error() string                 { panic("in Error") }
func (explosive) MarshalJSON() ([]byte, error) { panic("in MarshalJSON") }

// TestSubscriberPanics delivers diffs although one of the subscribers panics.
func TestSubscriberPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		logger := zerolog.New(&log)
		n := newNode(t, presence.Config{
			Logger: &logger, OnDiff: func(string, presence.Diff, presence.State) { panic("in OnDiff") },
		})
		n.ps.Subscribe(topic, explosive{})
		n.track(new(owner), "u1", nil)
		synctest.Wait()
		n.track(new(owner), "u2", nil)
		synctest.Wait()
		n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"A"}]}},"leaves":{}}`,
			`{"joins":{"u2":{"metas":[{"phx_ref":"B"}]}},"leaves":{}}`)
		for _, want := range []string{"in Deliver", "in OnDiff"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%q is not in the log:\n%s", want, log.String())
			}
		}
	})
}

func (explosive) Deliver(*pubsub.Broadcast) error { panic("in Deliver") }

// TestFetchExits loses one diff only when Fetch ends its goroutine.
func TestFetchExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, presence.Config{Fetch: func(_ context.Context, _ string, keys []string) (map[string]any, error) {
			if keys[0] == "u1" {
				runtime.Goexit()
			}
			return nil, nil
		}})
		a := new(owner)
		n.track(a, "u1", nil)
		n.track(a, "u2", nil)
		synctest.Wait()
		n.want(`{"joins":{"u2":{"metas":[{"phx_ref":"A"}]}},"leaves":{}}`)
	})
}

// TestOnDiff calls OnDiff after each diff, with the state after it (N288).
func TestOnDiff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n *node
		var got []string
		n = newNode(t, presence.Config{OnDiff: func(on string, d presence.Diff, now presence.State) {
			raw, _ := json.Marshal(now)
			n.mu.Lock()
			told := len(n.diffs)
			n.mu.Unlock()
			got = append(got, n.name(fmt.Sprintf("%s -%d +%d after %d: %s", on, d.Leaves.Len(), d.Joins.Len(), told, raw)))
			if now.Len() == 3 {
				panic("three is too many")
			}
		}})
		a := new(owner)
		n.track(a, "u1", nil)
		synctest.Wait()
		n.track(a, "u2", nil)
		synctest.Wait()
		n.track(a, "u3", nil)
		synctest.Wait()
		n.UntrackFor(a, topic, "u1")
		synctest.Wait()
		a.end()
		synctest.Wait()
		want := []string{
			`room:7 -0 +1 after 1: {"u1":{"metas":[{"phx_ref":"A"}]}}`,
			`room:7 -0 +1 after 2: {"u1":{"metas":[{"phx_ref":"A"}]},"u2":{"metas":[{"phx_ref":"B"}]}}`,
			`room:7 -0 +1 after 3: {"u1":{"metas":[{"phx_ref":"A"}]},` +
				`"u2":{"metas":[{"phx_ref":"B"}]},"u3":{"metas":[{"phx_ref":"C"}]}}`,
			`room:7 -1 +0 after 4: {"u2":{"metas":[{"phx_ref":"B"}]},"u3":{"metas":[{"phx_ref":"C"}]}}`,
			`room:7 -2 +0 after 5: {}`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n  %s", strings.Join(got, "\n  "))
		}
	})
}

package socket

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
)

// TestRevocations checks what is remembered, and for how long.
func TestRevocations(t *testing.T) {
	t.Parallel()
	var r revocations
	r.add("ann", "first")
	mark := r.mark()
	want := func(id, reason string, failure error) {
		t.Helper()
		got, err := r.since(mark, id)
		if !errors.Is(err, failure) || (got == nil) != (reason == "") || got != nil && *got != reason {
			t.Errorf("%s: %v, %v", id, got, err)
		}
	}
	want("ann", "", nil)
	r.add("bob", "second")
	want("bob", "second", nil)
	want("ann", "", nil)
	want("", "", nil)
	for i := range maxRevocations - 1 {
		r.add(fmt.Sprint("user", i), "other")
	}
	want("bob", "second", nil)
	want(fmt.Sprint("user", maxRevocations-2), "other", nil)
	r.add("eve", "last")
	want("bob", "", errManyRevocations)
	want("", "", nil)
	if len(r.last) != maxRevocations {
		t.Errorf("%d are remembered", len(r.last))
	}
}

// TestRevokeDuringLogin checks that a client whose token was verified before its user was revoked
// is not logged in, whichever node the revocation comes from.
func TestRevokeDuringLogin(t *testing.T) {
	t.Parallel()
	for _, remote := range []bool{false, true} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("remote %v, many %v", remote, many), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					cluster := pubsubtest.NewCluster()
					ctx, stop := context.WithCancel(t.Context())
					var nodes [2]*pubsub.PubSub
					for i := range nodes {
						nodes[i] = pubsub.New(cluster.Node(fmt.Sprint("node", i)))
						go func() { _ = nodes[i].Run(ctx) }() // it ends with ctx
					}
					synctest.Wait()
					l := newAuthLineOn(t, nodes[0], Auth{Anonymous: true}, "", nil)
					other := NewHandler(Config{PubSub: nodes[1]})
					defer func() {
						l.end()
						if err := other.Shutdown(context.Background()); err != nil {
							t.Error(err)
						}
						stop()
						synctest.Wait()
					}()
					l.joinSocket()
					l.sendToken("2", `"hang"`)
					synctest.Wait()
					from, reason := l.h, "denied"
					if remote {
						from = other
					}
					if err := from.Revoke(t.Context(), "ann", "gone"); err != nil {
						t.Fatal(err)
					}
					for range maxRevocations {
						if !many {
							break
						}
						if reason = "unavailable"; from.Revoke(t.Context(), "bob", "gone") != nil {
							t.Fatal("not revoked")
						}
					}
					synctest.Wait()
					close(l.hang)
					l.want(socketReplied("1", "2", "error", fmt.Sprintf(`{"reason":%q}`, reason)))
					if id := l.s.subject(); id != "" {
						t.Errorf("the subject is %q", id)
					}
				})
			})
		}
	}
}

// TestRevokeDuringHandshake checks that a connection ends whose token was verified before its user
// was revoked.
func TestRevokeDuringHandshake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.0", nil)
		defer l.end()
		verify := l.h.cfg.Auth.Verify
		l.h.cfg.Auth.Verify = func(ctx context.Context, token string, r *Request) (g Grant, err error) {
			g, err = verify(ctx, token, r)
			return g, errors.Join(err, l.h.Revoke(ctx, "bob", "gone"))
		}
		var who identity
		r := &Request{Token: "bob.60", ConnectionID: testConnection, ClientID: testClient, Version: "2.0.0"}
		if err := l.h.identify(t.Context(), r, nil, &who); err != nil {
			t.Fatal(err)
		}
		late := l.h.open(l, serializer.V2(), who)
		defer late.Closed(nil)
		time.Sleep(1250 * time.Millisecond)
		l.wantCloses("4403 gone")
	})
}

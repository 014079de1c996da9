package channel_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

type greetingKey struct{}

// greeter is a carrier whose context has a value.
type greeter struct{ *carrier }

func (greeter) Context() context.Context {
	return context.WithValue(context.Background(), greetingKey{}, "hello")
}

// contexts returns the context of a channel's callbacks, and its channel.
func contexts(t *testing.T, grant context.Context) (context.Context, channelhost.Channel) {
	t.Helper()
	joined := make(chan context.Context, 1)
	h := channel.Define(func(_ *room, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		joined <- ctx
		return nil, nil
	})
	up := greeter{newCarrier(pubsub.New(nil))}
	d := join(up, channelhost.Join{Handler: h, Values: grant})
	synctest.Wait()
	return <-joined, d
}

// TestContextEnds checks what users of a callback's context see of its end, whether they used it
// before or use it only afterwards, with and without the values of a grant.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	grants := map[string]context.Context{"no grant": nil, "grant": context.Background()}
	for name, grant := range grants {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, d := contexts(t, grant)
				if err := ctx.Err(); err != nil {
					t.Errorf("a joined channel's context: %v", err)
				}
				if _, ok := ctx.Deadline(); ok {
					t.Error("the context has a deadline")
				}
				called := make(chan struct{})
				context.AfterFunc(ctx, func() { close(called) })
				derived, cancel := context.WithTimeout(ctx, time.Hour)
				defer cancel()
				select {
				case <-ctx.Done():
					t.Error("the context is done")
				default:
				}
				end(t, d)
				<-called
				<-ctx.Done()
				<-derived.Done()
				cancelled(t, ctx)
				cancelled(t, derived)
			})
			synctest.Test(t, func(t *testing.T) {
				ctx, d := contexts(t, grant)
				end(t, d)
				cancelled(t, ctx)
				<-ctx.Done()
				derived, cancel := context.WithCancel(ctx)
				defer cancel()
				cancelled(t, derived)
			})
		})
	}
}

func end(t *testing.T, d channelhost.Channel) {
	t.Helper()
	d.Close(errors.New("connection lost"))
	d.Wait()
	synctest.Wait()
}

func cancelled(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := ctx.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("Err returned %v", err)
	}
	if cause := context.Cause(ctx); !errors.Is(cause, channel.ErrClosed) {
		t.Errorf("the cause is %v", cause)
	}
}

// TestContextValues checks the order of the values of a grant and of the connection, and that a
// context is not made for those who look them up.
func TestContextValues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, d := contexts(t, nil)
		if got := ctx.Value(greetingKey{}); got != "hello" {
			t.Errorf("got %v", got)
		}
		if got := ctx.Value("unknown"); got != nil {
			t.Errorf("got %v", got)
		}
		if err := ctx.Err(); err != nil || channel.HasCancelContext(d) {
			t.Errorf("a context was made to look up a value (%v)", err)
		}
		select {
		case <-ctx.Done():
			t.Error("the context is done")
		default:
		}
		if got := ctx.Value(greetingKey{}); got != "hello" || !channel.HasCancelContext(d) {
			t.Errorf("got %v when a context had been made", got)
		}
		if got := fmt.Sprint(ctx); got != "channel.Context(room:1)" {
			t.Errorf("printed as %s", got)
		}
		end(t, d)
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, d := contexts(t, context.WithValue(context.Background(), greetingKey{}, "granted"))
		if got := ctx.Value(greetingKey{}); got != "granted" {
			t.Errorf("got %v", got)
		}
		end(t, d)
	})
}

package state_test

import (
	"context"
	"testing"

	"bennu.example/socket"
	"bennu.example/state"
)

// A user whose client id and $id are those of another user writes nevertheless.
func TestIDsOfUsers(t *testing.T) {
	t.Parallel()
	o := state.New(state.NewMemory(state.MemoryConfig{}))
	r := serve(t, o, state.Config{Allow: allowAll}, func(cfg *socket.Config) {
		cfg.Connect = func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var params struct{ User string }
			err := r.Params.Decode(&params)
			r.ID = params.User
			return ctx, err
		}
	})
	for i, test := range []struct {
		user string
		rev  float64
	}{{"ann", 1}, {"eve", 2}, {"", 3}, {"ann", 1}, {"eve", 2}} {
		c := r.dialWith("&$client=client-of-ann-01&user=" + test.user)
		c.join("doc:1", `{}`)
		if rev := c.ok("doc:1", "put", `{"$id":"same","value":1}`)["rev"]; rev != test.rev {
			t.Errorf("write %d: revision %v, want %v", i, rev, test.rev)
		}
	}
}

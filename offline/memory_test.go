package offline_test

import (
	"errors"
	"testing"

	"bennu.example/offline"
	"bennu.example/offline/offlinetest"
)

func TestMemory(t *testing.T) {
	offlinetest.Run(t, offlinetest.Config{
		Memory: true,
		New: func(*testing.T) func() (offline.Store, error) {
			return func() (offline.Store, error) { return offline.NewMemory(), nil }
		},
	})
}

func TestPolicyNames(t *testing.T) {
	for policy, want := range map[offline.Policy]string{
		offline.Forget: "Forget", offline.Keep: "Keep", offline.KeepUpdating: "KeepUpdating", 9: "Policy(9)",
	} {
		if got := policy.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestCheckNamesTheOperation(t *testing.T) {
	err := offline.Check("", []offline.Op{{Drop: 1}, {}})
	const want = "offline: invalid operation 1: 0 fields are set instead of one"
	if !errors.Is(err, offline.ErrInvalid) || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

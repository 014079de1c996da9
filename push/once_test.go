package push_test

import (
	"testing"

	"bennu.example/push"
	"bennu.example/push/oncetest"
)

func TestOnceMemory(t *testing.T) {
	t.Parallel()
	oncetest.Run(t, oncetest.Config{Virtual: true, New: func(*testing.T) (a, b push.OnceStore) {
		s := push.NewOnceMemory(0)
		return s, s
	}})
}

package push_test

import (
	"testing"

	"bennu.example/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

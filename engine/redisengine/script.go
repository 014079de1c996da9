package redisengine

import (
	"crypto/sha1" //nolint:gosec // the hash by which Redis names scripts
	_ "embed"     // for the scripts
	"encoding/hex"
	"math/rand/v2"
	"strconv"

	"github.com/redis/rueidis"
)

var (
	//go:embed lua/begin.lua
	beginSource string
	//go:embed lua/append.lua
	appendSource string
	//go:embed lua/read.lua
	readSource string
	//go:embed lua/touch.lua
	touchSource string
	//go:embed lua/forget.lua
	forgetSource string

	//go:embed lua/will_begin.lua
	willBeginSource string
	//go:embed lua/will_get.lua
	willGetSource string
	//go:embed lua/will_swap.lua
	willSwapSource string
	//go:embed lua/will_due.lua
	willDueSource string
	//go:embed lua/will_of_node.lua
	willOfNodeSource string
	//go:embed lua/will_lease.lua
	willLeaseSource string
	//go:embed lua/will_ended.lua
	willEndedSource string
	//go:embed lua/will_drop.lua
	willDropSource string

	//go:embed lua/once_begin.lua
	onceBeginSource string
	//go:embed lua/once_claim.lua
	onceClaimSource string
	//go:embed lua/once_finish.lua
	onceFinishSource string
	//go:embed lua/once_release.lua
	onceReleaseSource string

	//go:embed lua/state_begin.lua
	stateBeginSource string
	//go:embed lua/state_apply.lua
	stateApplySource string
	//go:embed lua/state_read.lua
	stateReadSource string
	//go:embed lua/state_changes.lua
	stateChangesSource string
	//go:embed lua/state_expire.lua
	stateExpireSource string
	//go:embed lua/state_remove.lua
	stateRemoveSource string
	//go:embed lua/state_due.lua
	stateDueSource string

	appendScript = newScript(appendSource)
	readScript   = newScript(readSource)
	touchScript  = newScript(touchSource)
	forgetScript = newScript(forgetSource)

	willGetScript    = newWillScript(willGetSource)
	willSwapScript   = newWillScript(willSwapSource)
	willDueScript    = newWillScript(willDueSource)
	willOfNodeScript = newWillScript(willOfNodeSource)
	willLeaseScript  = newWillScript(willLeaseSource)
	willEndedScript  = newWillScript(willEndedSource)
	willDropScript   = newWillScript(willDropSource)
)

var (
	onceClaimScript   = scriptOf(onceBeginSource + onceClaimSource)
	onceFinishScript  = scriptOf(onceBeginSource + onceFinishSource)
	onceReleaseScript = scriptOf(onceBeginSource + onceReleaseSource)
)

var (
	stateApplyScript   = scriptOf(stateBeginSource + stateApplySource)
	stateReadScript    = scriptOf(stateBeginSource + stateReadSource)
	stateChangesScript = scriptOf(stateBeginSource + stateChangesSource)
	stateExpireScript  = scriptOf(stateBeginSource + stateExpireSource)
	stateRemoveScript  = scriptOf(stateBeginSource + stateRemoveSource)
	stateDueScript     = scriptOf(stateDueSource)
)

// script is a Lua script.
type script struct{ source, sha string }

func newScript(source string) *script { return scriptOf(beginSource + source) }

func newWillScript(source string) *script { return scriptOf(willBeginSource + source) }

func scriptOf(source string) *script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // see above
	return &script{source, hex.EncodeToString(sum[:])}
}

// call returns the command that runs the script. If whole is false, the server must have run the
// script before; otherwise its answer is NOSCRIPT.
func (s *script) call(b rueidis.Builder, whole bool, keys, args []string) rueidis.Completed {
	count := strconv.Itoa(len(keys))
	if whole {
		return b.Arbitrary("EVAL", s.source, count).Args(keys...).Args(args...).Build()
	}
	return b.Arbitrary("EVALSHA", s.sha, count).Args(keys...).Args(args...).Build()
}

// freshEpoch returns a random epoch.
func freshEpoch() string {
	const digits, letters = "0123456789abcdefghjkmnpqrstvwxyz", 9
	var epoch [letters]byte
	for i, n := 0, rand.Uint64(); i < letters; i, n = i+1, n>>5 {
		epoch[i] = digits[n&31]
	}
	return string(epoch[:])
}

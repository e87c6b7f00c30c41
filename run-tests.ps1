# Sets up once, then checks the style and runs all tests: run-tests for Windows.
#
#   .\run-tests.ps1 [--newest | --gpu] [PYTEST ARGUMENTS]     see tools\checks\run_tests.py

$python = & "$PSScriptRoot\environments\setup_env.ps1"
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
& $python "$PSScriptRoot\tools\checks\run_tests.py" @args
exit $LASTEXITCODE

# Sets up once, then asks the bundled demo model about a picture: run-demo for Windows.
#
#   .\run-demo.ps1 [FLAGS]                     the shipped picture and question
#   .\run-demo.ps1 PICTURE "QUESTION" [FLAGS]  your own; flags as in python -m laser_core ask --help
#
# Where scripts may not run: powershell -ExecutionPolicy Bypass -File run-demo.ps1

$python = & "$PSScriptRoot\environments\setup_env.ps1" .venv-demo -c environments/transformers-5.txt
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
$asked = @($args)
if ($asked.Count -eq 0 -or "$($asked[0])".StartsWith('-')) {
    $asked = @("$PSScriptRoot\pictures\scene_picnic.jpg", 'what number is on the bee?') + $asked
}
$before = $env:PYTHONPATH
$env:PYTHONPATH = if ($before) { "$PSScriptRoot;$before" } else { $PSScriptRoot }
try {
    & $python -m laser_core ask @asked
} finally {
    $env:PYTHONPATH = $before # the session's own
}
exit $LASTEXITCODE

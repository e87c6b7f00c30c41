# Sets up a virtual environment in the repository once and prints the path of its Python.
#
#   environments\setup_env.ps1 NAME [PIP ARGUMENT ...]
#   environments\setup_env.ps1                          prints the Python to build on
#
# setup_env.sh for Windows PowerShell 5.1 and newer; PYTHON and TORCH are explained there.

$root = Split-Path -Parent $PSScriptRoot
$torch = if ($env:TORCH) { $env:TORCH } else { 'torch==2.13.0' }

# Redirects no program's errors: PowerShell 5.1 would take their first line for a failure
function Find-Python {
    $candidates = if ($env:PYTHON) { @($env:PYTHON) } else { @('python', 'py', 'python3') }
    foreach ($candidate in $candidates) {
        if (Get-Command $candidate -ErrorAction SilentlyContinue) {
            & $candidate -c "import sys; sys.exit(sys.version_info < (3, 10))" | Out-Null
            if ($LASTEXITCODE -eq 0) { return $candidate }
        }
    }
    [Console]::Error.WriteLine("install Python 3.10 or newer, or name one in `$env:PYTHON (tried $($candidates -join ', '))")
    exit 1
}

function Test-Torch($python) {
    & $python -c "import sys, importlib.util as u; sys.exit(u.find_spec('torch') is None)" | Out-Null
    return $LASTEXITCODE -eq 0
}

function Invoke-Program {
    $program, $arguments = $args
    & $program @arguments | Out-Host
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}

if ($args.Count -eq 0) {
    Find-Python
    exit 0
}
$name, $packages = $args
$packages = @($packages)
$folder = Join-Path $root $name
$stamp = Join-Path $folder 'installed'
$python = Join-Path $folder 'Scripts\python.exe'
$files = @(Get-Item -LiteralPath (Join-Path $root 'requirements.txt'))
$files += @(Get-ChildItem -LiteralPath $PSScriptRoot -Filter '*.txt')
$hashes = @($files | ForEach-Object { (Get-FileHash -LiteralPath $_.FullName).Hash })
$wanted = ($hashes + $torch + $packages) -join ' '
$installed = if (Test-Path -LiteralPath $stamp) { Get-Content -LiteralPath $stamp } else { '' }
if ($installed -ne $wanted) {
    [Console]::Error.WriteLine("setting up $folder")
    if (-not $installed) {
        $base = Find-Python
        $options = @('--clear') # a setup that was interrupted starts again
        if (Test-Torch $base) { $options += '--system-site-packages' }
        Invoke-Program $base -m venv @options $folder
    }
    # torch first: the packages that need it would otherwise choose its build
    if (-not (Test-Torch $python)) {
        $build = -split $torch # TORCH may hold pip's own flags
        Invoke-Program $python -m pip install --quiet --no-compile @build
    }
    Push-Location -LiteralPath $root
    try {
        Invoke-Program $python -m pip install --quiet --no-compile -r requirements.txt @packages
    } finally {
        Pop-Location
    }
    Set-Content -LiteralPath $stamp -Value $wanted
}
$python
exit 0

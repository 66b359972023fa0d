"""Coefficients of the explicit Runge-Kutta methods.

Sources: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.1, II.4 and II.5, with Shampine's
interpolant for 5(4) in II.6; Ralston 1962; Fehlberg 1969 (NASA TR R-315) for 2(1) and 4(5); Bogacki & Shampine 1989;
Dormand & Prince 1980; Tsitouras 2011 (Computers & Mathematics with Applications 62), to 30 digits.
"""

from fractions import Fraction

from ode_core.solvers.dop853_coefficients import DOPRI8
from ode_core.solvers.interpolants import Interpolant, weights_from_corrections
from ode_core.solvers.tableaus import ButcherTableau, row
from ode_core.specs.methods import MethodName

_DOPRI5_B = row("35/384", "0", "500/1113", "125/192", "-2187/6784", "11/84", "0")
_DOPRI5_CORRECTION = row(
    "-12715105075/11282082432",
    "0",
    "87487479700/32700410799",
    "-10690763975/1880347072",
    "701980252875/199316789632",
    "-1453857185/822651844",
    "69997945/29380423",
)

_TSIT5_B = row(
    "0.0964607668180652295181673131651",
    "0.01",
    "0.479889650414499574775249532291",
    "1.37900857410374189319227482186",
    "-3.29006951543608067990104758571",
    "2.3247105240997739824153559184",
    "0",
)
# The coefficients have 30 digits, the largest is 13: off by up to 5e-29. The worst condition misses by 7e-29.
_TSIT5_ERROR = Fraction(1, 10**27)
# The interpolant's are published as products of roots with 16 to 19 digits, multiplied out here: off by about 1e-17
# times 16, 6 and 47 of the largest polynomial. The worst condition misses by 6e-17.
_TSIT5_INTERPOLANT_ERROR = Fraction(1, 10**15)

TABLEAUS: dict[MethodName, ButcherTableau] = {
    "euler": ButcherTableau(1, a=(row(),), b=row("1")),
    "midpoint": ButcherTableau(2, a=(row(), row("1/2")), b=row("0", "1")),
    "heun": ButcherTableau(2, a=(row(), row("1")), b=row("1/2", "1/2")),
    "ralston": ButcherTableau(2, a=(row(), row("2/3")), b=row("1/4", "3/4")),
    "heun3": ButcherTableau(3, a=(row(), row("1/3"), row("0", "2/3")), b=row("1/4", "0", "3/4")),
    "rk4": ButcherTableau(
        4,
        a=(row(), row("1/2"), row("0", "1/2"), row("0", "0", "1")),
        b=row("1/6", "1/3", "1/3", "1/6"),
    ),
    "rk4_38": ButcherTableau(
        4,
        a=(row(), row("1/3"), row("-1/3", "1"), row("1", "-1", "1")),
        b=row("1/8", "3/8", "3/8", "1/8"),
    ),
    "heun_euler": ButcherTableau(2, a=(row(), row("1")), b=row("1/2", "1/2"), embedded=row("1", "0"), embedded_order=1),
    "fehlberg2": ButcherTableau(
        2,
        a=(row(), row("1/2"), row("1/256", "255/256")),
        b=row("1/512", "255/256", "1/512"),
        embedded=row("1/256", "255/256", "0"),
        embedded_order=1,
    ),
    "bosh3": ButcherTableau(
        3,
        a=(row(), row("1/2"), row("0", "3/4"), row("2/9", "1/3", "4/9")),
        b=row("2/9", "1/3", "4/9", "0"),
        embedded=row("7/24", "1/4", "1/3", "1/8"),
        embedded_order=2,
    ),
    "fehlberg45": ButcherTableau(
        4,
        a=(
            row(),
            row("1/4"),
            row("3/32", "9/32"),
            row("1932/2197", "-7200/2197", "7296/2197"),
            row("439/216", "-8", "3680/513", "-845/4104"),
            row("-8/27", "2", "-3544/2565", "1859/4104", "-11/40"),
        ),
        b=row("25/216", "0", "1408/2565", "2197/4104", "-1/5", "0"),
        embedded=row("16/135", "0", "6656/12825", "28561/56430", "-9/50", "2/55"),
        embedded_order=5,
    ),
    "dopri5": ButcherTableau(
        5,
        a=(
            row(),
            row("1/5"),
            row("3/40", "9/40"),
            row("44/45", "-56/15", "32/9"),
            row("19372/6561", "-25360/2187", "64448/6561", "-212/729"),
            row("9017/3168", "-355/33", "46732/5247", "49/176", "-5103/18656"),
            _DOPRI5_B[:6],
        ),
        b=_DOPRI5_B,
        embedded=row("5179/57600", "0", "7571/16695", "393/640", "-92097/339200", "187/2100", "1/40"),
        embedded_order=4,
        interpolant=Interpolant(4, weights_from_corrections(_DOPRI5_B, (_DOPRI5_CORRECTION,))),
    ),
    "tsit5": ButcherTableau(
        5,
        a=(
            row(),
            row("0.161"),
            row("-0.00848065549235698854442687425023", "0.33548065549235698854442687425023"),
            row(
                "2.89715305710549343213043259419", "-6.35944848997507484314815991238", "4.36229543286958141101772731819"
            ),
            row(
                "5.32586482843925660442887792084",
                "-11.7488835640628278777471703398",
                "7.49553934288983620830460478456",
                "-0.0924950663617552492565020793321",
            ),
            row(
                "5.86145544294642002865925148698",
                "-12.9209693178471092917061186818",
                "8.15936789857615864318040079454",
                "-0.0715849732814009972245305425258",
                "-0.0282690503940683829090030572127",
            ),
            _TSIT5_B[:6],
        ),
        b=_TSIT5_B,
        embedded=row(
            "0.0946807557658394580747887625576",
            "0.00918356554034325309677636393665",
            "0.487770528424761570785564259963",
            "1.23429756693047898565510967388",
            "-2.70771234998352545488110997506",
            "1.86662841817058703575371939957",
            "1/66",
        ),
        embedded_order=4,
        interpolant=Interpolant(
            4,
            weights=(
                row("1", "-2.763706197274825911336735930", "2.913255461821912743750681", "-1.0530884977290216"),
                row("0", "0.1317", "-0.2234", "0.1017"),
                row("0", "3.930296236894751528506874467", "-5.941033872131504734702492026", "2.490627285651252793"),
                row("0", "-12.41107716693367698373438154", "30.33818863028232159817299037", "-16.54810288924490272"),
                row("0", "37.50931341651103919496903965", "-88.17890489476640110142766935", "47.37952196281928122"),
                row("0", "-27.89652628919728780594826314", "65.09189467479367152629021929", "-34.87065786149660974"),
                row("0", "1.5", "-4", "2.5"),
            ),
            coefficient_error=_TSIT5_INTERPOLANT_ERROR,
        ),
        coefficient_error=_TSIT5_ERROR,
    ),
    "dopri8": DOPRI8,
}
